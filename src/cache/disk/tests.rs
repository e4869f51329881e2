use super::*;
use crate::cache;
use crate::semantics::accept::AcceptClass;
use crate::semantics::freshness::Freshness;
use crate::semantics::key::KeyBuf;
use crate::semantics::key::Parts;
use crate::semantics::pack::Packed;
use crate::semantics::pattern::Pattern;
use crate::semantics::vary::Selection;
use cache::entry::Kept;
use cache::ledger::Reach;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use http::header;
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
const UNDER: u64 = 7;
const BOOT: u64 = 1;

/// A cache on a disk.
struct Stand {
    cache: Arc<Cache>,
    disk: Arc<Disk>,
}

impl Stand {
    fn at(dir: &Path, size: u64, boot: u64) -> Self {
        let settings = cache::Settings { memory: 16 << 20, object_max: 4 << 20, variants: 4 };
        let cache = Arc::new(Cache::new(settings));
        let settings = Settings { path: dir.join("cache"), size, index: 1 << 20 };
        let disk = Disk::open(&settings, boot, &cache).expect("the directory is ours");
        let stand = Self { cache, disk };
        stand.wait(|disk| disk.phase() != Phase::Reading);
        stand
    }

    fn new(dir: &TempDir) -> Self {
        Self::at(dir.path(), 64 << 20, BOOT)
    }

    fn wait(&self, so: impl Fn(&Disk) -> bool) {
        let began = clock::mono();
        while !so(&self.disk) {
            assert!(began.elapsed() < DEADLINE, "it does not come to pass: {:?}", self.disk.view());
            thread::yield_now();
        }
    }

    /// Stores it, and waits until it is written.
    fn put(&self, key: &[u8], stored: &Arc<Stored>) {
        let before = self.disk.view().records;
        self.cache.put(key, stored);
        self.wait(|disk| disk.view().records > before);
    }

    /// Whether what is there is fresh; `None` if nothing is.
    fn fresh(&self, path: &str) -> Option<bool> {
        let read = self.disk.read(&self.cache, &key(path), &terms()).ok()?;
        Some(read.variants()[0].freshness.is_fresh(clock::mono()))
    }

    fn read(&self, key: &[u8]) -> Result<Vec<String>, Miss> {
        let read = self.disk.read(&self.cache, key, &terms())?;
        Ok(read.variants().iter().map(|stored| text(stored)).collect())
    }

    /// What is there for whoever comes after a restart.
    fn after(self, dir: &TempDir, ending: impl FnOnce(&Disk)) -> Self {
        self.settle();
        ending(&self.disk);
        drop(self);
        Self::new(dir)
    }

    fn settle(&self) {
        if let Some(settling) = self.disk.settled() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            assert!(runtime.block_on(settling), "purges are written in time");
        }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.disk.abandon();
    }
}

fn terms() -> Terms {
    Terms { under: UNDER, codings: Offer::default() }
}

fn text(stored: &Stored) -> String {
    let mut pieces = Vec::new();
    assert!(stored.body.pieces(0, stored.body.len().unwrap(), &mut pieces));
    String::from_utf8(pieces.concat()).unwrap()
}

fn key(path: &str) -> Vec<u8> {
    let parts = Parts { scheme: "http", authority: "a", path, query: None, accept: AcceptClass::Any };
    KeyBuf::new().build(&parts).to_vec()
}

fn page(cache: &Cache, body: &str, language: &'static str, tags: &[u64]) -> Arc<Stored> {
    let mut head = HeaderMap::new();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    head.append(header::LINK, HeaderValue::from_static("<a>"));
    head.append(header::LINK, HeaderValue::from_bytes(b"<\xe4>").unwrap());
    let mut request = HeaderMap::new();
    request.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static(language));
    let fields: &[HeaderName] = if language.is_empty() { &[] } else { &[header::ACCEPT_LANGUAGE] };
    let seconds = Duration::from_secs;
    Arc::new(Stored {
        status: StatusCode::OK,
        head: Packed::of(&head),
        body: StoredBody::whole(Bytes::copy_from_slice(body.as_bytes())),
        freshness: Freshness {
            initial_age: seconds(20),
            while_revalidate: seconds(30),
            if_error: seconds(3600),
            ..Freshness::lasting(seconds(600), clock::mono())
        },
        selection: Selection::of(fields, &request),
        hidden: Packed::of([(&HeaderName::from_static("x-cache-rule"), &HeaderValue::from_static("r"))]),
        tagged: Tagged::new(tags.iter().map(|tag| Tag::from_value(*tag)).collect(), cache.ledger().sequence()),
        coded: None,
        kept: Some(Arc::new(Kept::under_terms(UNDER))),
    })
}

#[test]
fn what_is_stored_is_there_after_a_kill_and_after_an_orderly_end_and_after_a_new_start_of_the_machine() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::new(&dir);
    let (a, b) = (key("/a"), key("/b"));
    stand.put(&a, &page(&stand.cache, "hallo", "de", &[1]));
    stand.put(&a, &page(&stand.cache, "hello", "en", &[1]));
    let large = "x".repeat(3 << 19);
    stand.put(&b, &page(&stand.cache, &large, "", &[2]));
    let stand = stand.after(&dir, Disk::abandon);
    assert_eq!(stand.read(&a), Ok(vec!["hello".to_owned(), "hallo".to_owned()]));
    assert_eq!(stand.read(&b), Ok(vec![large.clone()]));
    let stand = stand.after(&dir, |disk| disk.close(DEADLINE));
    assert_eq!(stand.read(&b), Ok(vec![large.clone()]));
    stand.disk.close(DEADLINE);
    drop(stand);
    let stand = Stand::at(dir.path(), 64 << 20, BOOT + 1);
    let shelf = stand.disk.read(&stand.cache, &a, &terms()).unwrap();
    let (stored, before) = (&shelf.variants()[1], page(&stand.cache, "hallo", "de", &[1]));
    assert_eq!((&stored.head, &stored.hidden, stored.status), (&before.head, &before.hidden, before.status));
    assert_eq!((&stored.selection, stored.tagged.tags()), (&before.selection, before.tagged.tags()));
    let age = stored.freshness.age(clock::mono());
    assert!(age >= Duration::from_secs(20) && age < Duration::from_secs(20) + DEADLINE, "{age:?}");
    assert_eq!(stored.freshness.lifetime, before.freshness.lifetime);
    // The machine goes down: nobody knows what was lost.
    stand.disk.abandon();
    drop(stand);
    let stand = Stand::at(dir.path(), 64 << 20, BOOT + 2);
    assert_eq!(stand.read(&a), Err(Miss::Absent));
    assert_eq!(stand.disk.view().entries, 0);
}

#[test]
fn a_purge_of_any_kind_is_not_undone_by_a_kill() {
    let reach = |pattern: Option<Pattern>, site: Option<u64>| {
        Some(Order::Reach(Reach { site: site.map(Tag::from_value), pattern, with_query: false }))
    };
    let orders = [
        ("the URL", None, true),
        ("a tag", Some(Order::Tags(vec![Tag::from_value(1)])), true),
        ("a glob on a site", reach(Pattern::glob("/x/**").ok(), Some(1)), true),
        ("a glob on another site", reach(Pattern::glob("/x/**").ok(), Some(3)), false),
        ("below", reach(Pattern::below("/x").ok(), None), true),
        ("a regex", reach(Pattern::regex("^/x/.$").ok(), None), true),
        ("everything", reach(None, None), true),
        ("all", Some(Order::All), true),
    ];
    for (name, order, concerns) in orders {
        for mode in [Mode::Hard, Mode::Soft] {
            if mode == Mode::Soft && matches!(order, Some(Order::All)) {
                continue;
            }
            let dir = TempDir::new().unwrap();
            let stand = Stand::new(&dir);
            stand.put(&key("/x/a"), &page(&stand.cache, "x", "", &[1]));
            stand.put(&key("/y"), &page(&stand.cache, "y", "", &[2]));
            // What is only on the disk, after a start, is reached as well as what is in memory, too.
            let stand = if name.len() % 2 == 0 { stand } else { stand.after(&dir, Disk::abandon) };
            match &order {
                None => assert!(stand.cache.forget(&key("/x/a"), mode, clock::mono())),
                Some(order) => stand.cache.purge_order(order, mode, clock::mono()).unwrap(),
            }
            let left = match (mode, concerns) {
                (_, false) => Some(true),
                (Mode::Hard, _) => None,
                (Mode::Soft, _) => Some(false),
            };
            assert_eq!(stand.fresh("/x/a"), left, "{name} {mode:?}: at once");
            let stand = stand.after(&dir, Disk::abandon);
            assert_eq!(stand.fresh("/x/a"), left, "{name} {mode:?}: after a kill");
            let stand = stand.after(&dir, |disk| disk.close(DEADLINE));
            assert_eq!(stand.fresh("/x/a"), left, "{name} {mode:?}: after one more end");
            let other = if name.starts_with("all") || name == "everything" { left } else { Some(true) };
            assert_eq!(stand.fresh("/y"), other, "{name} {mode:?}: what it does not name");
            stand.put(&key("/x/a"), &page(&stand.cache, "x", "", &[1]));
            let stand = stand.after(&dir, Disk::abandon);
            assert_eq!(stand.fresh("/x/a"), Some(true), "{name} {mode:?}: what is fetched later");
        }
    }
}

#[test]
fn a_purge_that_comes_while_a_page_is_written_reaches_it() {
    let dir = TempDir::new().unwrap();
    let mut stand = Stand::new(&dir);
    for round in 0..200 {
        let body = format!("page {round}");
        let stored = page(&stand.cache, &body, "", &[5]);
        stand.cache.put(&key("/"), &stored);
        // The keeper is about it now, or will be, or has been.
        for _ in 0..round {
            std::hint::spin_loop();
        }
        if round % 2 == 0 {
            stand.cache.purge(&key("/"));
        } else {
            stand.cache.purge_order(&Order::Tags(vec![Tag::from_value(5)]), Mode::Hard, clock::mono()).unwrap();
        }
        assert_eq!(stand.fresh("/"), None, "{round}");
        if round % 20 == 19 {
            stand = stand.after(&dir, Disk::abandon);
            assert_eq!(stand.fresh("/"), None, "{round}, after a kill");
        }
    }
}

#[test]
fn it_is_not_served_under_settings_by_which_it_was_not_judged_nor_by_a_clock_that_was_set_back() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::new(&dir);
    stand.put(&key("/"), &page(&stand.cache, "x", "", &[]));
    let other = Terms { under: UNDER + 1, ..terms() };
    assert_eq!(stand.disk.read(&stand.cache, &key("/"), &other).unwrap_err(), Miss::Settings);
    assert_eq!(stand.fresh("/"), Some(true));
    let at = |wall, up, boot| Moment { wall, up, boot };
    let millis = |count| Some(Duration::from_millis(count));
    for (then, now, expected) in [
        (at(1000, 50, 1), at(1400, 450, 1), millis(400)),
        // The wall's clock was set back, but not before then: the other one knows better.
        (at(1000, 50, 1), at(1100, 950, 1), millis(900)),
        (at(1000, 50, 1), at(999, 950, 1), None),
        (at(1000, 50, 1), at(1400, 10, 2), millis(400)),
        (at(1000, 50, 1), at(900, 10, 2), None),
    ] {
        assert_eq!(then.since(now), expected, "{then:?} {now:?}");
    }
    let stale = stand.disk.judged(&key("/"), page_alone(&stand.cache), 0, None, clock::mono()).unwrap();
    assert_eq!(
        (stale.freshness.lifetime, stale.freshness.while_revalidate, stale.freshness.if_error),
        Default::default()
    );
}

fn page_alone(cache: &Cache) -> Stored {
    Arc::into_inner(page(cache, "x", "", &[])).unwrap()
}

#[test]
fn the_bound_on_the_disk_holds_and_what_is_in_memory_stays_on_it() {
    let dir = TempDir::new().unwrap();
    let size = 64 << 20;
    let stand = Stand::at(dir.path(), size, BOOT);
    let body = "x".repeat(500_000);
    let used = || -> u64 {
        let files = fs::read_dir(dir.path().join("cache")).unwrap();
        files.map(|file| file.unwrap().metadata().map_or(0, |about| about.len())).sum()
    };
    for number in 0..400 {
        let body = format!("{number} {body}");
        stand.put(&key(&format!("/{number}")), &page(&stand.cache, &body, "", &[]));
        assert!(used() <= size + 4096, "{}", used());
        // Somebody asks for it all the time.
        assert!(stand.cache.get(&key("/0")).is_some() || number > 300);
    }
    assert!(stand.disk.view().bytes > size / 2);
    assert_eq!(stand.read(&key("/100")), Err(Miss::Absent), "the oldest are gone");
    let asked = stand.cache.get(&key("/0")).is_some();
    let stand = stand.after(&dir, |disk| disk.close(DEADLINE));
    assert!(stand.fresh("/399").is_some());
    assert_eq!(stand.fresh("/0").is_some(), asked, "what is worth memory is worth the disk");
}

#[test]
fn what_is_only_asked_about_again_is_not_written_again_with_its_body() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::new(&dir);
    let first = page(&stand.cache, &"x".repeat(100_000), "", &[]);
    stand.put(&key("/"), &first);
    let written = stand.disk.view().written;
    let mut again = first.completed(first.body.clone());
    again.freshness.initial_age = Duration::ZERO;
    stand.cache.put(&key("/"), &Arc::new(again));
    // It waits for its minute, unless it ends before.
    let stand = stand.after(&dir, |disk| {
        disk.close(DEADLINE);
        let view = disk.view();
        assert!(view.records == 2 && view.written < written + 2000, "{view:?}");
    });
    let shelf = stand.disk.read(&stand.cache, &key("/"), &terms()).unwrap();
    assert!(text(&shelf.variants()[0]) == "x".repeat(100_000));
    assert!(shelf.variants()[0].freshness.age(clock::mono()) < Duration::from_secs(20), "the newer head");
}

#[test]
fn a_disk_that_fails_costs_what_is_on_it_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::new(&dir);
    stand.put(&key("/"), &page(&stand.cache, "x", "", &[]));
    stand.disk.fail("test", &io::Error::from(io::ErrorKind::StorageFull));
    stand.cache.put(&key("/"), &page(&stand.cache, "y", "", &[]));
    assert!(stand.cache.get(&key("/")).is_some(), "memory goes on");
    stand.cache.purge_order(&Order::All, Mode::Hard, clock::mono()).unwrap();
    stand.wait(|disk| disk.settled().is_none());
    assert!(!stand.disk.has(&key("/")) && stand.disk.view().errors == 1);
    let stand = stand.after(&dir, |disk| disk.close(DEADLINE));
    assert_eq!(stand.read(&key("/")), Err(Miss::Absent), "nothing of it comes back: its purges would be missing");
}

#[test]
fn places_are_known_before_a_purge_can_need_them() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::new(&dir);
    let site = crate::units::SiteName::parse("www.example.org").unwrap();
    assert!(stand.cache.admit_place(&site, "https", "www.example.org:8443"));
    stand.put(&key("/"), &page(&stand.cache, "x", "", &[]));
    let stand = stand.after(&dir, Disk::abandon);
    assert_eq!(stand.cache.places(&site), [("https", "www.example.org:8443".into())]);
    stand.disk.abandon();
    drop(stand);
    fs::write(dir.path().join("cache/places"), "www.example.org https").unwrap();
    let stand = Stand::new(&dir);
    assert_eq!(stand.read(&key("/")), Err(Miss::Absent), "without them purges would not reach all");
}

/// A directory with a few pages and purges, its newest segment and the purges beside it in bytes.
fn written() -> (TempDir, Vec<(Vec<u8>, &'static str)>, [(std::path::PathBuf, Vec<u8>); 2]) {
    let dir = TempDir::new().unwrap();
    let stand = Stand::new(&dir);
    let pages: Vec<_> = ["/a", "/b", "/c"].into_iter().map(|path| (key(path), path)).collect();
    for (key, path) in &pages {
        stand.put(key, &page(&stand.cache, path, "", &[]));
    }
    stand.put(&key("/gone"), &page(&stand.cache, "/gone", "", &[9]));
    stand.cache.purge_order(&Order::Tags(vec![Tag::from_value(9)]), Mode::Hard, clock::mono()).unwrap();
    stand.cache.purge_order(&Order::Tags(vec![Tag::from_value(10)]), Mode::Hard, clock::mono()).unwrap();
    stand.settle();
    drop(stand);
    let files = ["00000001.seg", "00000001.purges"].map(|name| {
        let path = dir.path().join("cache").join(name);
        let bytes = fs::read(&path).unwrap();
        (path, bytes)
    });
    (dir, pages, files)
}

/// Nothing wrong may be read, whatever was done to the files.
fn check(dir: &TempDir, pages: &[(Vec<u8>, &'static str)]) -> usize {
    let stand = Stand::new(dir);
    let mut found = 0;
    for (key, path) in pages {
        if let Ok(read) = stand.read(key) {
            assert_eq!(read, [*path]);
            found += 1;
        }
    }
    assert!(stand.read(&key("/gone")).is_err(), "it was purged");
    found
}

#[test]
fn no_flipped_byte_makes_a_wrong_page_or_a_purged_one() {
    let (dir, pages, [(segment, bytes), (purges, noted)]) = written();
    assert_eq!(check(&dir, &pages), 3);
    let restore = || {
        fs::remove_dir_all(dir.path().join("cache")).unwrap();
        let home = Home::take(&dir.path().join("cache"), BOOT).unwrap();
        drop(home);
        fs::write(&segment, &bytes).unwrap();
        fs::write(&purges, &noted).unwrap();
    };
    let step = 3;
    for at in (0..bytes.len()).step_by(step) {
        restore();
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&segment, bad).unwrap();
        check(&dir, &pages);
    }
    for at in 0..noted.len() {
        restore();
        let mut bad = noted.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&purges, bad).unwrap();
        assert_eq!(check(&dir, &pages), 0, "a purge may be missing: {at}");
    }
}

#[test]
fn a_page_whose_bytes_are_damaged_costs_that_page() {
    let (dir, pages, [(segment, bytes), _]) = written();
    for (path, left) in [("/b", 2), ("/c", 2)] {
        let mut bad = bytes.clone();
        // The last place where it stands is the body.
        let at = bad.windows(2).rposition(|window| window == path.as_bytes()).unwrap();
        bad[at + 1] ^= 1;
        fs::write(&segment, bad).unwrap();
        assert_eq!(check(&dir, &pages), left, "{path}");
    }
}

#[test]
fn whoever_is_killed_while_writing_leaves_whole_pages_or_none() {
    let (dir, pages, [(segment, bytes), (purges, noted)]) = written();
    let mut most = 0;
    for len in (0..=bytes.len()).step_by(7).chain([bytes.len()]) {
        fs::write(&purges, &noted).unwrap();
        fs::write(&segment, &bytes[..len]).unwrap();
        let found = check(&dir, &pages);
        assert!(found >= most, "what was whole before is whole: {len}");
        most = found;
    }
    assert_eq!(most, 3);
}

#[test]
fn the_purges_of_a_segment_that_cannot_be_read_are_not_lost() {
    let (dir, pages, [(segment, bytes), _]) = written();
    // A second run purges a page, and its own segment is damaged from its first byte on.
    let stand = Stand::new(&dir);
    assert!(stand.cache.forget(&key("/a"), Mode::Hard, clock::mono()));
    stand.settle();
    drop(stand);
    fs::write(dir.path().join("cache/00000002.seg"), "x").unwrap();
    for _ in 0..2 {
        assert_eq!(check(&dir, &pages), 2, "/a stays purged, /b and /c are there");
    }
    assert_eq!(fs::read(segment).unwrap(), bytes);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Head::read(&bytes);
        let _ = record::Preface::read(&bytes);
        let _ = record::shelf(&bytes, clock::mono());
        let _ = record::purged(&bytes);
    }
}

#[test]
fn who_reads_during_a_purge_waits_until_both_the_disk_and_memory_know_of_it() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::new(&dir);
    stand.put(&key("/"), &page(&stand.cache, "x", "", &[1]));
    let (order, now) = (Order::Tags(vec![Tag::from_value(1)]), clock::mono());
    let (done, read) = std::sync::mpsc::channel();
    let (disk, cache) = (&stand.disk, &stand.cache);
    thread::scope(|scope| {
        let purged = disk.purge(&order, Mode::Hard, now, || {
            cache.ledger().purge(&order, Mode::Hard, now).map(drop)?;
            scope.spawn(move || done.send(disk.read(cache, &key("/"), &terms()).map(drop)));
            // Memory knows, the disk does not: whoever learnt memory's sequence now would believe to have come after the purge.
            let (begun, mut early) = (clock::mono(), read.try_recv());
            while early.is_err() && disk.reading.load(Ordering::Relaxed) == 0 && begun.elapsed() < DEADLINE {
                early = read.try_recv();
            }
            let early = early.or_else(|_| read.recv_timeout(Duration::from_millis(50)));
            assert!(early.is_err(), "it has to wait");
            Ok::<_, crate::cache::ledger::Busy>(())
        });
        assert_eq!(purged, Ok(()));
    });
    assert_eq!(read.recv_timeout(DEADLINE), Ok(Err(Miss::Purged)));
}

#[test]
fn what_memory_has_no_room_for_is_kept_on_the_disk_until_it_is_purged() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::new(&dir);
    let body = "x".repeat(400_000);
    for number in 0..50 {
        let key = key(&format!("/{number}"));
        stand.put(&key, &page(&stand.cache, &body, "", &[]));
        (0..3).for_each(|_| drop(stand.cache.get(&key)));
    }
    let (cold, other) = (key("/cold"), key("/other"));
    let before = stand.cache.tier();
    let large = page(&stand.cache, &body, "", &[]);
    stand.put(&cold, &large);
    assert!(stand.cache.tier().refusals > before.refusals && stand.cache.look(&cold).is_none(), "{before:?}");
    assert_eq!(stand.read(&cold), Ok(vec![body.clone()]));
    stand.put(&other, &large);
    stand.cache.forget(&other, Mode::Hard, clock::mono());
    assert!(stand.read(&other).is_err());
}

#[test]
fn what_is_purged_in_the_moment_in_which_it_is_stored_holds_up_nobody() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::new(&dir);
    let (cache, key) = (&stand.cache, key("/"));
    let crate::cache::Joined::Leader(leader) = cache.flights().join(&key, None) else { panic!("nobody fetches it") };
    thread::scope(|scope| {
        let mut unwritten = None;
        let stored = leader.store_unless_purged(|| {
            // The purge has the disk's lock, and waits until this is stored: who stores must not wait for that lock now.
            scope.spawn(|| cache.purge(&key));
            stand.wait(|disk| disk.inbox.try_lock().is_err());
            unwritten = cache.put_in_memory(&key, &page(cache, "x", "", &[]));
        });
        assert!(stored && unwritten.is_some());
        cache.have_written(&key, unwritten);
    });
    assert!(cache.look(&key).is_none(), "it was purged after it was stored");
}
