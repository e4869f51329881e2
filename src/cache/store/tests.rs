use super::*;
use crate::cache::body::Fill;
use crate::cache::body::StoredBody;
use crate::cache::coded::Coded;
use crate::cache::ledger::Tagged;
use crate::semantics::coding::Offer;
use crate::semantics::freshness::Freshness;
use crate::semantics::pack::Packed;
use crate::semantics::vary::Selection;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header;
use std::time::Duration;

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
        head: Packed::of(&head),
        body: StoredBody::Whole(Bytes::from(vec![b'x'; body_len])),
        freshness,
        selection: Selection::of(&[header::ACCEPT_LANGUAGE], &request),
        hidden: Packed::default(),
        tagged: Tagged::new(Vec::new(), 0),
        coded: Some(Coded::offering(Offer::of(&[Coding::Gzip, Coding::Br]))),
        kept: None,
    })
}

/// The bytes of a shelf and its key that nobody can argue about.
fn plain_bytes(key: &[u8], shelf: &Shelf) -> u64 {
    let of = |stored: &Arc<Stored>| {
        let head: usize = stored.head.lines().map(|(_, value)| value.len()).sum();
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
    let tier = cache.tier();
    let (mut plain, mut counted) = (0, 0);
    for (name, Seated { shelf, .. }) in &cache.hall.shelves {
        let (key, weight) = (name.0.key(), weight(name.0.key(), &shelf));
        counted += weight;
        plain += plain_bytes(key, &shelf);
        assert!(weight > plain_bytes(key, &shelf));
        assert!(shelf.variants().len() <= 4);
    }
    assert!(tier.evictions > 0 && tier.refusals > 0, "{tier:?}");
    assert!(plain > MEMORY / 2, "the test fills it: {plain}");
    assert_eq!((counted, cache.hall.shelves.entry_count()), (tier.bytes, tier.objects), "what can be found has a seat");
    assert!(tier.bytes <= tier.capacity && tier.capacity <= MEMORY, "{tier:?}");
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
    let before = cache.tier().bytes;
    let gzip = work(&cache, &page, "gzip").expect("it is not made yet");
    assert!(work(&cache, &page, "gzip").is_none(), "somebody is about it");
    work(&cache, &page, "br").expect("another coding")();
    gzip();
    let (gzip, br) = (body(&cache, Coding::Gzip).unwrap(), body(&cache, Coding::Br).unwrap());
    assert!(cache.tier().bytes >= before + (gzip.len() + br.len()) as u64, "{before}: {:?}", cache.tier());
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
    let page = stored(10, 10_000, 1);
    let fill_up = || (0..900).for_each(|number: u64| cache.put(&number.to_le_bytes(), &page));
    fill_up();
    let before = cache.tier();
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
        let (used, stored) = (cache.fills().used(), cache.tier().bytes);
        assert!(used <= MEMORY / 8 && used + stored <= before.capacity, "{used} and {stored}");
    }
    assert!(cache.fills().used() > MEMORY / 8 - PIECE, "the test fills the share");
    drop(open);
    assert_eq!(cache.fills().used(), 0, "and nothing is left of it");
    assert!(before.bytes > MEMORY / 10 * 9, "what they do not need is for what is stored");
    fill_up();
    assert!(cache.tier().bytes > before.bytes - MEMORY / 32, "and is so again: {before:?} {:?}", cache.tier());
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
    let before = cache.tier();
    let forgotten = cache.shrink();
    let after = cache.tier();
    assert_eq!((before.objects, after.objects), (408, 408 - forgotten));
    assert!(after.bytes <= before.bytes / 4 * 3 && after.bytes > before.bytes / 2, "{before:?} {after:?}");
    assert_eq!(cache.hall.shelves.iter().count() as u64, after.objects);
}

#[test]
fn pages_use_all_the_room_and_make_place_for_a_file_that_many_ask_for() {
    let cache = cache();
    let (page, pages) = (stored(10, 10_000, 1), MEMORY / 10_000);
    let key = |number: u64| format!("/page-{number}").into_bytes();
    (0..pages).for_each(|number| cache.put(&key(number), &page));
    let tier = cache.tier();
    assert!(tier.capacity - tier.bytes < 11_000, "all room is used: {tier:?}");
    let file = stored(10, 900_000, 1);
    let mut asked = 0;
    while cache.get(b"/file").is_none() {
        asked += 1;
        cache.put(b"/file", &file);
        assert!(asked < 100, "it finds room");
    }
    assert!(asked > 3, "not at once: {asked}");
    let left = (0..pages).filter(|number| cache.look(&key(*number)).is_some()).count();
    let made_place = tier.objects - left as u64;
    assert!((80..100).contains(&made_place), "only as many as had to leave: {made_place}");
    assert!(cache.tier().bytes <= tier.capacity);
}
