//! The codings of a stored response: each is made once, in the background, for the first who accepts it, and stored with it.
//!
//! Whoever asks before it is made gets what the origin sent. What is hardly smaller is not kept.

use crate::cache::Cache;
use crate::cache::Stored;
use crate::cache::entry::COUNTERS;
use crate::cache::entry::PIECE;
use crate::cache::entry::allocated;
use crate::semantics::coding::Coding;
use crate::semantics::coding::Offer;
use bytes::Bytes;
use http::HeaderMap;
use http::Method;
use std::io;
use std::io::Write;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// What codings a stored response has, and may get. Those that are made are shared by all that revalidations and purges make
/// of the response: a page that is asked about with each request would lose them otherwise while they are made.
#[derive(Clone, Debug)]
pub struct Coded {
    offer: Offer,
    made: Arc<Made>,
}

/// The codings of one content.
#[derive(Debug, Default)]
struct Made {
    bodies: [OnceLock<Bytes>; Coding::COUNT],
    /// Those that somebody makes or has made, a bit for each.
    begun: AtomicU8,
}

/// How many bodies are being coded, and how many may be at a time.
#[derive(Debug, Default)]
pub struct Mill {
    busy: AtomicUsize,
}

impl Coded {
    /// None yet, of those offered.
    #[must_use]
    pub fn offering(offer: Offer) -> Self {
        Self { offer, made: Arc::default() }
    }

    /// The coding that a request should get.
    #[must_use]
    pub fn choose(&self, method: &Method, request: &HeaderMap) -> Option<Coding> {
        self.offer.choose(method, request)
    }

    /// The body in this coding, if it is made.
    #[must_use]
    pub fn body(&self, coding: Coding) -> Option<&Bytes> {
        self.made.bodies.get(coding as usize)?.get()
    }

    /// The bytes it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let made = self.made.bodies.iter().filter_map(OnceLock::get);
        allocated(COUNTERS + size_of::<Made>()) + made.map(|body| allocated(body.len()) + PIECE).sum::<usize>()
    }

    /// Adds a coding; made twice, the first one stays.
    fn add(&self, coding: Coding, body: Bytes) {
        if let Some(place) = self.made.bodies.get(coding as usize) {
            let _ = place.set(body);
        }
    }

    fn all_begun(&self) -> bool {
        let begun = self.made.begun.load(Ordering::Acquire);
        self.offer.iter().all(|coding| begun & (1 << coding as u8) != 0)
    }

    /// Whether nobody has begun with this one.
    fn begins(&self, coding: Coding) -> bool {
        let bit = 1 << coding as u8;
        self.made.begun.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    fn gives_up(&self, coding: Coding) {
        self.made.begun.fetch_and(!(1 << coding as u8), Ordering::AcqRel);
    }
}

impl Mill {
    /// Makes the coding that this request should get, unless it is made, or begun, or too many are being made. Blocking
    /// work: `spawn` runs it where it harms no request.
    pub fn make(
        cache: &Arc<Cache>,
        key: &[u8],
        stored: &Arc<Stored>,
        method: &Method,
        request: &HeaderMap,
        spawn: impl FnOnce(Box<dyn FnOnce() + Send>),
    ) {
        let Some(coded) = stored.coded.as_ref().filter(|coded| !coded.all_begun()) else { return };
        let Some(coding) = coded.choose(method, request) else { return };
        if coded.body(coding).is_some() || !coded.begins(coding) {
            return;
        }
        let Some(turn) = Turn::take(cache) else {
            // The next who asks tries again.
            coded.gives_up(coding);
            return;
        };
        let (key, stored) = (Box::<[u8]>::from(key), Arc::clone(stored));
        spawn(Box::new(move || {
            if let Some(body) = smaller(&stored, coding) {
                turn.0.recode(&key, &stored, coding, &body);
            }
        }));
    }
}

/// One of the places at the mill, given back however the work ends.
struct Turn(Arc<Cache>);

impl Turn {
    fn take(cache: &Arc<Cache>) -> Option<Self> {
        let turn = Self(Arc::clone(cache));
        (cache.mill().busy.fetch_add(1, Ordering::AcqRel) < BUSY_MAX).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.mill().busy.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Stored {
    /// Whether it has the content of the other: it is that one, or what a revalidation or a purge has made of it.
    #[must_use]
    pub fn has_content_of(&self, other: &Self) -> bool {
        match (&self.coded, &other.coded) {
            (Some(one), Some(other)) => Arc::ptr_eq(&one.made, &other.made),
            _ => false,
        }
    }

    /// The same response with one more coding, to be weighed anew.
    #[must_use]
    pub fn recoded(&self, coding: Coding, body: Bytes) -> Self {
        if let Some(coded) = &self.coded {
            coded.add(coding, body);
        }
        self.completed(self.body.clone())
    }
}

/// The body in this coding, if that saves at least a tenth.
fn smaller(stored: &Stored, coding: Coding) -> Option<Bytes> {
    let len = stored.body.len()?;
    let mut pieces = Vec::new();
    if !stored.body.pieces(0, len, &mut pieces) {
        return None;
    }
    let body = encode(&pieces, coding).ok()?;
    (body.len() as u64 <= len / 10 * 9).then(|| Bytes::from(body.into_boxed_slice()))
}

fn encode(pieces: &[Bytes], coding: Coding) -> io::Result<Vec<u8>> {
    match coding {
        Coding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
            pieces.iter().try_for_each(|piece| encoder.write_all(piece))?;
            encoder.finish()
        }
        Coding::Br => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, BR_QUALITY, BR_WINDOW);
            pieces.iter().try_for_each(|piece| encoder.write_all(piece))?;
            encoder.flush()?;
            Ok(encoder.into_inner())
        }
        Coding::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
            pieces.iter().try_for_each(|piece| encoder.write_all(piece))?;
            encoder.finish()
        }
    }
}

/// How many bodies are coded at a time, in all.
const BUSY_MAX: usize = 2;

/// Levels that make a page in a few milliseconds, once.
const GZIP_LEVEL: u32 = 6;
const BR_QUALITY: u32 = 5;
const BR_WINDOW: u32 = 20;
const ZSTD_LEVEL: i32 = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn each_coding_reads_back_whatever_pieces_it_was_made_of() {
        let page = "<p>a page of Plone</p>\n".repeat(4000);
        let pieces: Vec<Bytes> = page.as_bytes().chunks(1000).map(Bytes::copy_from_slice).collect();
        for coding in [Coding::Gzip, Coding::Br, Coding::Zstd] {
            let coded = encode(&pieces, coding).unwrap();
            assert!(coded.len() < page.len() / 20, "{coding:?}: {}", coded.len());
            let mut back = Vec::new();
            match coding {
                Coding::Gzip => flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut back).unwrap(),
                Coding::Br => brotli::Decompressor::new(&coded[..], 4096).read_to_end(&mut back).unwrap(),
                Coding::Zstd => zstd::Decoder::new(&coded[..]).unwrap().read_to_end(&mut back).unwrap(),
            };
            assert!(back == page.as_bytes(), "{coding:?}");
        }
    }

    #[test]
    fn a_coding_is_begun_once() {
        let coded = Coded::offering(Offer::of(&[Coding::Gzip, Coding::Br]));
        assert!(coded.begins(Coding::Gzip) && coded.begins(Coding::Br));
        let weight = coded.weight();
        let revalidated = coded.clone();
        coded.add(Coding::Gzip, Bytes::from_static(b"gz"));
        assert!(!revalidated.begins(Coding::Gzip) && !coded.begins(Coding::Br));
        coded.gives_up(Coding::Br);
        assert!(revalidated.begins(Coding::Br));
        assert!(revalidated.body(Coding::Gzip).is_some(), "what is made is not lost by a revalidation meanwhile");
        assert!(revalidated.weight() > weight);
    }
}
