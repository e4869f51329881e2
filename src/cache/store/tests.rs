use super::*;
use crate::cache::body::Fill;
use crate::cache::body::StoredBody;
use crate::cache::coded::Coded;
use crate::cache::ledger::Tagged;
use crate::semantics::coding::Offer;
use crate::semantics::freshness::Freshness;
use crate::semantics::vary::Selection;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;

const MEMORY: u64 = 8 << 20;

fn cache() -> Cache {
    Cache::new(Settings { memory: MEMORY, object_max: 1 << 20, variants: 4 })
}

/// A response with a head and a body of these sizes, for requests in a language.
fn stored(head_len: usize, body_len: usize, language: u64) -> Arc<Stored> {
    let mut head = HeaderMap::new();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    head.insert(header::ETAG, HeaderValue::try_from("e".repeat(head_len)).unwrap());
    let mut request = HeaderMap::new();
    request.insert(header::ACCEPT_LANGUAGE, HeaderValue::from(language));
    let freshness = Freshness::lasting(Duration::from_secs(60), crate::clock::mono());
    Arc::new(Stored {
        status: StatusCode::OK,
        head,
        body: StoredBody::Whole(Bytes::from(vec![b'x'; body_len])),
        freshness,
        selection: Selection::of(&[header::ACCEPT_LANGUAGE], &request),
        hidden: None,
        tagged: Tagged::new(Vec::new(), 0),
        coded: Some(Coded::offering(Offer::of(&[Coding::Gzip, Coding::Br]))),
        kept: None,
    })
}

/// The bytes of a shelf and its key that nobody can argue about.
fn plain_bytes(key: &[u8], shelf: &Shelf) -> u64 {
    let of = |stored: &Arc<Stored>| {
        let head: usize = stored.head.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        head as u64 + stored.body.len().unwrap()
    };
    key.len() as u64 + shelf.variants().iter().map(of).sum::<u64>()
}

#[test]
fn whatever_is_put_by_whomever_the_budget_holds_everything() {
    let cache = cache();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let cache = &cache;
            scope.spawn(move || {
                let mut seed = thread + 1;
                let mut random = |below: u64| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 33) % below
                };
                for _ in 0..3200 {
                    // Keys of any length, some of them several times, in several languages; a large body now and then.
                    let number = random(300);
                    let key = format!("{number}{}", "k".repeat(usize::try_from(number * 7).unwrap()));
                    let body = if random(40) == 0 { random(1 << 20) } else { random(12_000) };
                    let response =
                        stored(usize::try_from(random(3000)).unwrap(), usize::try_from(body).unwrap(), random(6));
                    cache.put(key.as_bytes(), &response);
                }
            });
        }
    });
    let tiers = cache.tiers();
    let mut plain = 0;
    for (tier, shelves) in tiers.iter().zip([&cache.small, &cache.large]) {
        assert!(tier.evictions > 0 && tier.bytes <= tier.capacity, "{tier:?}");
        let mut counted = 0;
        for (key, shelf) in shelves {
            counted += u64::from(weigh(&key, &shelf));
            plain += plain_bytes(&key, &shelf);
            assert!(u64::from(weigh(&key, &shelf)) > plain_bytes(&key, &shelf));
            assert!(shelf.variants().len() <= 4);
        }
        assert!(counted <= tier.capacity, "what can be found weighs {counted}: {tier:?}");
    }
    let capacity: u64 = tiers.iter().map(|tier| tier.capacity).sum();
    assert!(plain > MEMORY / 4, "the test fills it: {plain}");
    assert_eq!(capacity + MEMORY / 8, MEMORY, "the rest is for fills");
}

/// What the mill has to do for a client of what is stored, to be done later.
fn work(cache: &Arc<Cache>, stored: &Arc<Stored>, accept: &'static str) -> Option<Box<dyn FnOnce() + Send>> {
    let mut request = HeaderMap::new();
    request.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accept));
    let mut taken = None;
    Mill::make(cache, b"page", stored, &Method::GET, &request, |work| taken = Some(work));
    taken
}

fn body(cache: &Cache, coding: Coding) -> Option<Bytes> {
    let shelf = cache.get(b"page")?;
    shelf.variants()[0].coded.as_ref()?.body(coding).cloned()
}

#[test]
fn a_coding_is_made_once_beside_the_others_and_counts_for_the_budget() {
    let cache = Arc::new(cache());
    let page = stored(10, 10_000, 1);
    cache.put(b"page", &page);
    let before = cache.tiers()[0].bytes;
    let gzip = work(&cache, &page, "gzip").expect("it is not made yet");
    assert!(work(&cache, &page, "gzip").is_none(), "somebody is about it");
    work(&cache, &page, "br").expect("another coding")();
    gzip();
    let (gzip, br) = (body(&cache, Coding::Gzip).unwrap(), body(&cache, Coding::Br).unwrap());
    assert!(cache.tiers()[0].bytes >= before + (gzip.len() + br.len()) as u64, "{before}: {:?}", cache.tiers());
    assert!(work(&cache, &page, "gzip").is_none());
}

#[test]
fn no_more_than_two_bodies_are_coded_at_a_time_and_who_was_refused_may_try_again() {
    let cache = Arc::new(cache());
    let pages = [1, 2, 3].map(|language| stored(10, 10_000, language));
    let first = work(&cache, &pages[0], "gzip").expect("there is place");
    let second = work(&cache, &pages[1], "gzip").expect("there is place");
    assert!(work(&cache, &pages[2], "gzip").is_none(), "the mill is busy");
    drop(first);
    work(&cache, &pages[2], "gzip").expect("the place is free, even if the work was never done")();
    second();
}

#[test]
fn what_was_purged_or_replaced_while_it_was_coded_stays_so() {
    let cache = Arc::new(cache());
    let page = stored(10, 10_000, 1);
    cache.put(b"page", &page);
    let late = work(&cache, &page, "gzip").unwrap();
    assert!(cache.purge(b"page") && !cache.purge(b"page"));
    late();
    assert!(cache.get(b"page").is_none(), "a purge of the URL");

    let page = stored(10, 10_000, 1);
    cache.put(b"page", &page);
    let late = work(&cache, &page, "gzip").unwrap();
    let newer = stored(10, 5_000, 1);
    cache.put(b"page", &newer);
    late();
    assert!(Arc::ptr_eq(&cache.get(b"page").unwrap().variants()[0], &newer), "a newer response");

    let late = work(&cache, &newer, "gzip").unwrap();
    cache.purge_all();
    late();
    assert!(cache.get(b"page").is_none(), "a purge of everything");
}

#[tokio::test]
async fn bodies_in_flight_hold_no_more_than_their_share() {
    const FILLS: u64 = 60;
    const PIECE: u64 = 32 * 1024;
    let cache = cache();
    let mut open = Vec::new();
    for _ in 0..FILLS {
        let writer = Fill::start(None, 1 << 20, Arc::clone(cache.fills()));
        let reader = StoredBody::Filling(writer.fill()).reader().expect("it has just begun");
        let piece = Bytes::from(vec![b'x'; usize::try_from(PIECE).unwrap()]);
        // It writes until it has to wait for its reader, who reads nothing; a kept one is whole after 1 MiB.
        for _ in 0..40 {
            let write = writer.write(piece.clone());
            let now = futures_now(write);
            if now.is_none() {
                break;
            }
        }
        open.push((writer, reader));
        assert!(cache.fills().used() <= MEMORY / 8, "{}", cache.fills().used());
    }
    assert!(cache.fills().used() > MEMORY / 8 - PIECE, "the test fills the share");
    drop(open);
    assert_eq!(cache.fills().used(), 0, "and nothing is left of it");
}

/// What a future gives without waiting.
fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn when_memory_is_short_a_quarter_of_what_is_stored_is_forgotten() {
    let cache = cache();
    for (count, body) in [(400, 100), (8, 100_000)] {
        for number in 0..count {
            cache.put(format!("{body}/{number}").as_bytes(), &stored(10, body, 1));
        }
    }
    let stored = || cache.tiers().iter().map(|tier| tier.objects).sum::<u64>();
    assert_eq!((stored(), cache.shrink(), stored()), (408, 102, 306));
}

#[test]
fn small_pages_use_the_room_that_large_files_leave_and_give_it_back() {
    let cache = cache();
    // As many pages as small and large objects may have together, and a few more.
    let (page, pages) = (stored(10, 10_000, 1), MEMORY / 10_000);
    let key = |number: u64| format!("/page-{number}").into_bytes();
    for number in 0..pages {
        cache.put(&key(number), &page);
    }
    let bytes = |cache: &Cache| cache.tiers().map(|tier| (tier.bytes, tier.capacity));
    let [(small, small_max), (large, large_max)] = bytes(&cache);
    assert!(small_max - small < 20_000 && large_max - large < 20_000, "all room is used: {small} {large}");
    // A page that was a guest is found, replaced and forgotten as any other.
    let guest = (0..pages).map(key).find(|key| cache.large.contains_key(&**key)).expect("there are guests");
    assert!(cache.forget(&guest, Mode::Hard, Instant::now()) && cache.get(&guest).is_none());
    let file = stored(10, 900_000, 1);
    for number in 0..3 {
        cache.put(format!("/file-{number}").as_bytes(), &file);
    }
    let kept = (0..3).filter(|number| cache.get(format!("/file-{number}").as_bytes()).is_some()).count();
    let [(small, _), (large, _)] = bytes(&cache);
    assert_eq!(kept, 3, "guests leave");
    assert!(large <= large_max && small_max - small < 20_000, "{small} {large}");
    let guests = cache.large.iter().filter(|(_, shelf)| shelf.weight() <= LARGE).count();
    assert!(guests > 0, "only as many as had to");
}
