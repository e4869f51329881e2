//! What a verification says, to people and to programs.

use crate::telemetry::chain;
use crate::verify::Verified;
use crate::verify::VerifyError;
use serde_json::Value;
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

/// A verdict, told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// For people; ends with a line's end.
    pub words: String,
    /// For programs.
    pub json: Value,
    /// The exit status: 0 good, 1 damaged, 2 could not be opened, or asked for the impossible.
    pub code: u8,
}

/// Tells a result. `strict` makes a fault of an unfinished transaction.
#[must_use]
pub fn report(file: &Path, result: &Result<Verified, VerifyError>, strict: bool) -> Told {
    let name = file.display();
    match result {
        Ok(good) if good.unfinished && strict => {
            let words = format!(
                "error: {name}: at {}: the last transaction was never finished, or is being written\n{}",
                good.end.position,
                facts(good)
            );
            let fault = json!({ "at": good.end.position, "transaction": good.end.position, "word": "unfinished",
                                "reason": "the last transaction was never finished, or is being written" });
            Told { words, json: told(file, "damaged", Some(good), &fault), code: 1 }
        }
        Ok(good) => {
            let words = format!("{name}: good\n{}", facts(good));
            Told { words, json: told(file, "good", Some(good), &Value::Null), code: 0 }
        }
        Err(VerifyError::Damaged { fault, good }) => {
            let mut words = format!("error: {name}: {fault}\n");
            if fault.at != fault.transaction {
                let _ = writeln!(words, "  in the transaction  at {}", fault.transaction);
            }
            words.push_str(&facts(good));
            words.push_str(REMEDY);
            let fault = json!({ "at": fault.at, "transaction": fault.transaction, "word": fault.what.word(),
                                "reason": fault.what.to_string() });
            Told { words, json: told(file, "damaged", Some(good), &fault), code: 1 }
        }
        Err(error) => {
            let (verdict, code) = match error {
                VerifyError::Read { .. } => ("unreadable", 1),
                _ => ("not verified", 2),
            };
            let at = if let VerifyError::Read { at, .. } = error { json!(at) } else { Value::Null };
            let fault = json!({ "at": at, "transaction": null, "word": verdict, "reason": chain(error) });
            Told { words: format!("error: {}\n", chain(error)), json: told(file, verdict, None, &fault), code }
        }
    }
}

fn told(file: &Path, verdict: &str, good: Option<&Verified>, fault: &Value) -> Value {
    let mut all = json!({ "file": file.display().to_string(), "verdict": verdict, "fault": fault });
    if let Some(good) = good {
        all["size"] = json!(good.size);
        all["begin"] = json!(good.begin.position);
        all["end"] = json!(good.end.position);
        all["last_tid"] = json!(good.end.tid.to_string());
        all["last_time"] = json!(good.end.tid.time());
        all["transactions"] = json!(good.transactions);
        all["records"] = json!(good.records);
        all["unfinished"] = json!(good.unfinished);
        all["skipping"] = json!(good.remarks.skipping);
    }
    all
}

fn facts(good: &Verified) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "  good                from {} to {}, of {} bytes: {} transactions, {} records",
        good.begin.position, good.end.position, good.size, good.transactions, good.records
    );
    if good.end.tid.0 > 0 {
        let _ = writeln!(text, "  last transaction    {}, of {}", good.end.tid, good.end.tid.time());
    }
    if good.unfinished {
        let bytes = good.size.saturating_sub(good.end.position);
        let _ = writeln!(
            text,
            "  unfinished          {bytes} bytes at the end, being written or left by a crash; ZODB cuts them off"
        );
    }
    if good.remarks.skipping > 0 {
        let _ = writeln!(
            text,
            "  odd                 {} records point past the one before them, the first at {}; ZODB reads them",
            good.remarks.skipping, good.remarks.first
        );
    }
    text
}

const REMEDY: &str = "  what now            keep the file as it is; serve a replica, restore the last backup (repozo -R), or copy\n\
                      \x20                     what can be read with `python -m ZODB.fsrecover`; then verify what you serve\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zodb::Fault;
    use crate::zodb::Tid;
    use crate::zodb::check::Mark;
    use crate::zodb::check::Remarks;
    use crate::zodb::check::What;
    use std::io;

    fn verified() -> Verified {
        let end = Mark { position: 1234, tid: Tid(0x040d_3681_8666_6666) };
        let remarks = Remarks { skipping: 1, first: 77 };
        Verified { begin: Mark::START, end, transactions: 5, records: 9, remarks, size: 1300, unfinished: true }
    }

    #[test]
    fn a_good_file_is_told_with_its_last_transaction_and_what_is_odd() {
        let told = report(Path::new("Data.fs"), &Ok(verified()), false);
        assert_eq!(told.code, 0);
        assert!(told.words.starts_with("Data.fs: good\n"), "{}", told.words);
        for part in
            ["to 1234, of 1300 bytes: 5 transactions", "2026-11-23 17:05:31 UTC", "66 bytes at the end", "first at 77"]
        {
            assert!(told.words.contains(part), "{part}: {}", told.words);
        }
        assert_eq!(told.json["last_tid"], "0x040d368186666666");
        assert_eq!(told.json["fault"], Value::Null);
        let strict = report(Path::new("Data.fs"), &Ok(verified()), true);
        assert_eq!((strict.code, &strict.json["verdict"]), (1, &json!("damaged")));
    }

    #[test]
    fn a_damaged_file_is_told_with_place_reason_and_remedy() {
        let fault = Fault { at: 1300, transaction: 1234, what: What::Version(7) };
        let told =
            report(Path::new("Data.fs"), &Err(VerifyError::Damaged { fault, good: Box::new(verified()) }), false);
        assert_eq!(
            (told.code, &told.json["fault"]["at"], &told.json["fault"]["word"]),
            (1, &json!(1300), &json!("version"))
        );
        assert!(told.words.starts_with("error: Data.fs: at 1300: the record has a version"), "{}", told.words);
        assert!(told.words.contains("at 1234\n") && told.words.contains("repozo -R"), "{}", told.words);
    }

    #[test]
    fn what_cannot_be_read_is_damaged_and_what_cannot_be_opened_is_not_judged() {
        let path = Path::new("Data.fs").to_owned();
        let cause = || io::Error::other("broken");
        let read = report(&path, &Err(VerifyError::Read { path: path.clone(), at: 9, cause: cause() }), false);
        assert_eq!((read.code, &read.json["fault"]["at"]), (1, &json!(9)));
        let open = report(&path, &Err(VerifyError::Open { path: path.clone(), cause: cause() }), false);
        assert_eq!((open.code, open.words.as_str()), (2, "error: open Data.fs: broken\n"));
    }
}
