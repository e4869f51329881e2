//! The tables' own language: characters up to U+00FF are bytes, others UTF-8; `{}` is the case, `{id}` its number, `{TEXT*N}` a text N times.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

/// Puts the case and the named words into a template.
pub fn expand(template: &str, case: &str, words: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let Some((inside, behind)) = after.split_once('}') else {
            text.push('{');
            rest = after;
            continue;
        };
        if inside.is_empty() {
            text.push_str(&expand(case, "", words));
        } else if let Some((_, word)) = words.iter().find(|(name, _)| *name == inside) {
            text.push_str(word);
        } else if let Some((what, times)) = repeated(inside) {
            text.push_str(&what.repeat(times));
        } else {
            text.push('{');
            rest = after;
            continue;
        }
        rest = behind;
    }
    text.push_str(rest);
    text
}

fn repeated(inside: &str) -> Option<(&str, usize)> {
    let (what, times) = inside.rsplit_once('*')?;
    Some((what, times.parse().ok()?))
}

/// A text as the bytes that its characters stand for.
pub fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for letter in text.chars() {
        match u8::try_from(u32::from(letter)) {
            Ok(byte) => bytes.push(byte),
            Err(_) => bytes.extend_from_slice(letter.to_string().as_bytes()),
        }
    }
    bytes
}

/// Runs `judge` over all of `cases` on a few threads; gives what it complained of.
pub fn judge_all<T: Sync>(cases: &[T], judge: impl Fn(&T) -> Option<String> + Sync) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(complaint) = judge(case) {
                        wrong.lock().expect("no panic").push(complaint);
                    }
                }
            });
        }
    });
    wrong.into_inner().expect("no panic")
}

#[test]
fn the_language_of_the_tables_is_read_as_it_is_written() {
    assert_eq!(expand("a{}b{id}c{x*3}d{y", "{x*2}-{id}", &[("id", "7")]), "axx-7b7cxxxd{y");
    assert_eq!(expand("{\"json\": 1}{}", "", &[]), "{\"json\": 1}");
    assert_eq!(bytes("a\u{e4}\u{0}"), [b'a', 0xe4, 0]);
}
