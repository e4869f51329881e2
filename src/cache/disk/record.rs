//! How stored responses and purges are written down: bytes that can be read back after any crash, or are seen to be no record.
//!
//! A record is a head of fixed size, what is said (`meta`), and bodies. The head has a checksum of its own and one of the meta;
//! the meta has one of each body. Whatever does not fit its checksum is no record. Pure: knows no files and reads no clock.

use crate::cache::Shelf;
use crate::cache::Stored;
use crate::cache::StoredBody;
use crate::cache::Tagged;
use crate::cache::entry::Kept;
use crate::cache::entry::Place;
use crate::cache::ledger::Order;
use crate::cache::ledger::Reach;
use crate::semantics::freshness::Freshness;
use crate::semantics::pack::Packed;
use crate::semantics::pattern::Pattern;
use crate::semantics::tags::Mode;
use crate::semantics::tags::Tag;
use crate::semantics::vary::Selection;
use bytes::Bytes;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

/// The bytes of a record's head.
pub const HEAD: usize = 24;

/// The bytes that a segment and its file of purges begin with.
pub const PREFACE: usize = 28;

/// No meta is longer: a head is bounded far below, and so are its variants.
pub const META_MAX: usize = 4 << 20;

/// The version of this format: a file of any other is not read. To be raised when it changes, and when a later tidegate would
/// not store what an earlier one has.
pub const VERSION: u32 = 1;

const MAGIC: u32 = u32::from_be_bytes(*b"tgr\n");
const PREFACE_MAGIC: &[u8; 8] = b"tgcache\n";

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The responses of one URL.
    Shelf,
    /// A purge.
    Purge,
}

/// A record's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it is about.
    pub kind: Kind,
    /// The bytes of its meta.
    pub meta: u32,
    /// The bytes of its bodies, which follow.
    pub bodies: u32,
    sum: u32,
}

/// What a file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// The segment's number.
    pub segment: u32,
    /// The sequence of purges when it was begun: nothing in it was proved before.
    pub sequence: u64,
}

/// A time by the clock of the wall, and by the one that counts from the machine's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since 1970.
    pub wall: u64,
    /// Milliseconds since the machine's start.
    pub up: u64,
    /// Which start of the machine that was: one number for each.
    pub boot: u64,
}

/// Where a body lies, and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyAt {
    /// Where: in segment 0 it is meant from the end of the record's own meta.
    pub place: Place,
    /// Its bytes.
    pub len: u32,
    /// Its checksum.
    pub sum: u32,
}

/// A stored response without its body, as it was written.
#[derive(Debug)]
pub struct Variant {
    /// The response, its body empty; its age is that at `Written::at`, counted from `received`.
    pub stored: Stored,
    /// Whether it was offered in codings.
    pub coded: bool,
    /// Where its body is.
    pub body: BodyAt,
}

/// The responses of one URL, as they were written.
#[derive(Debug)]
pub struct Written {
    /// The key.
    pub key: Box<[u8]>,
    /// No purge up to this sequence concerned it.
    pub stamp: u64,
    /// When.
    pub at: Moment,
    /// The variants, newest first.
    pub variants: Vec<Variant>,
}

/// A purge, as it was written.
#[derive(Clone, Debug)]
pub struct Purged {
    /// Its sequence.
    pub sequence: u64,
    /// When.
    pub at: Moment,
    /// What it names.
    pub order: Order,
    /// How thoroughly.
    pub mode: Mode,
}

impl Moment {
    /// How long ago it was at `now`; `None` if the clocks say that it has not come yet, or cannot be compared.
    #[must_use]
    pub fn since(self, now: Self) -> Option<Duration> {
        let wall = now.wall.checked_sub(self.wall)?;
        // Within one run of the machine there is a clock that nobody sets: the longer of the two counts.
        let up = if self.boot == now.boot { now.up.checked_sub(self.up)? } else { 0 };
        Some(Duration::from_millis(wall.max(up)))
    }

    /// The moment of these clocks.
    #[must_use]
    pub fn of(wall: SystemTime, up: Duration, boot: u64) -> Self {
        let wall = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { wall: millis(wall), up: millis(up), boot }
    }
}

/// The checksum of a body, or of anything else.
#[must_use]
pub fn sum<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    pieces.into_iter().for_each(|piece| hasher.update(piece));
    hasher.finalize()
}

impl Head {
    /// Reads a head; `None` if that is none.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEAD)?;
        let mut eye = Eye(bytes);
        let (magic, kind, meta, bodies, sum) = (eye.u32()?, eye.u32()?, eye.u32()?, eye.u32()?, eye.u32()?);
        let kind = match kind {
            1 => Kind::Shelf,
            2 => Kind::Purge,
            _ => return None,
        };
        let good = magic == MAGIC && eye.u32()? == self::sum([&bytes[..HEAD - 4]]);
        (good && meta as usize <= META_MAX).then_some(Self { kind, meta, bodies, sum })
    }

    /// Whether this is the meta that belongs to it.
    #[must_use]
    pub fn fits(&self, meta: &[u8]) -> bool {
        meta.len() == self.meta as usize && sum([meta]) == self.sum
    }

    /// The bytes of the whole record.
    #[must_use]
    pub fn len(&self) -> u64 {
        HEAD as u64 + u64::from(self.meta) + u64::from(self.bodies)
    }
}

/// A record's head and meta, to be followed by `bodies` bytes; `None` if it is too long to be one.
fn record(kind: Kind, meta: &[u8], bodies: u32) -> Option<Vec<u8>> {
    if meta.len() > META_MAX {
        return None;
    }
    let mut pen = Pen(Vec::with_capacity(HEAD + meta.len()));
    pen.u32(MAGIC);
    pen.u32(match kind {
        Kind::Shelf => 1,
        Kind::Purge => 2,
    });
    pen.u32(u32::try_from(meta.len()).ok()?);
    pen.u32(bodies);
    pen.u32(sum([meta]));
    let own = sum([&pen.0[..]]);
    pen.u32(own);
    pen.0.extend_from_slice(meta);
    Some(pen.0)
}

impl Preface {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut pen = Pen(PREFACE_MAGIC.to_vec());
        pen.u32(VERSION);
        pen.u32(self.segment);
        pen.u64(self.sequence);
        let own = sum([&pen.0[..]]);
        pen.u32(own);
        pen.0
    }

    /// Reads it; `None` if that is none of this version.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..PREFACE)?;
        let (said, own) = bytes.split_at(PREFACE - 4);
        let mut eye = Eye(said.strip_prefix(PREFACE_MAGIC)?);
        let (version, segment, sequence) = (eye.u32()?, eye.u32()?, eye.u64()?);
        (version == VERSION && Eye(own).u32()? == sum([said])).then_some(Self { segment, sequence })
    }
}

/// A shelf to be written: the record's head and meta, and the bodies that follow them.
#[derive(Debug)]
pub struct Draft {
    /// Head and meta.
    pub front: Vec<u8>,
    /// The bodies that are not on the disk yet, in their order.
    pub bodies: Vec<Bytes>,
    /// The bytes of those bodies.
    pub len: u32,
    /// Whose they are, and where they will lie, counted from the end of the front.
    pub places: Vec<(Arc<Stored>, u32)>,
}

/// Writes down the variants of a shelf whose bodies are whole; `None` if there is none, or if it is too long for a record.
/// `is_there` says whether the body of a place is still to be had; one that is has not to be written again.
#[must_use]
pub fn draft(
    key: &[u8],
    shelf: &Shelf,
    (stamp, at, now): (u64, Moment, Instant),
    is_there: impl Fn(Place) -> bool,
) -> Option<Draft> {
    let mut pen = Pen(Vec::with_capacity(1024));
    pen.bytes(key);
    pen.u64(stamp);
    pen.moment(at);
    let mut draft = Draft { front: Vec::new(), bodies: Vec::new(), len: 0, places: Vec::new() };
    let mut written = Pen(Vec::new());
    let mut count = 0;
    for stored in shelf.variants() {
        let Some(len) = stored.body.len().and_then(|len| u32::try_from(len).ok()) else { continue };
        let mut pieces = Vec::new();
        if !stored.body.pieces(0, u64::from(len), &mut pieces) {
            continue;
        }
        let sum = sum(pieces.iter().map(|piece| &piece[..]));
        let known = stored.kept.as_ref().and_then(|kept| kept.place()).filter(|place| is_there(*place));
        let place = if let Some(place) = known {
            place
        } else {
            let place = Place { segment: 0, offset: draft.len };
            draft.len = draft.len.checked_add(len)?;
            draft.bodies.append(&mut pieces);
            draft.places.push((Arc::clone(stored), place.offset));
            place
        };
        written.variant(stored, BodyAt { place, len, sum }, now);
        count += 1;
    }
    if count == 0 {
        return None;
    }
    pen.u32(count);
    pen.0.append(&mut written.0);
    draft.front = record(Kind::Shelf, &pen.0, draft.len)?;
    Some(draft)
}

/// Reads the meta of a shelf's record. Ages are counted from `now`, as if it had just been written.
#[must_use]
pub fn shelf(meta: &[u8], now: Instant) -> Option<Written> {
    let mut eye = Eye(meta);
    let key = eye.bytes()?.into();
    let (stamp, at, count) = (eye.u64()?, eye.moment()?, eye.u32()?);
    let mut variants = Vec::new();
    for _ in 0..count {
        variants.push(eye.variant(now)?);
    }
    eye.0.is_empty().then_some(Written { key, stamp, at, variants })
}

/// The record of a purge; `None` if it is too long for one.
#[must_use]
pub fn purge(purged: &Purged) -> Option<Vec<u8>> {
    let mut pen = Pen(Vec::with_capacity(64));
    pen.u64(purged.sequence);
    pen.moment(purged.at);
    pen.0.push(u8::from(purged.mode == Mode::Soft));
    match &purged.order {
        Order::Tags(tags) => {
            pen.0.push(1);
            pen.tags(tags);
        }
        Order::Reach(Reach { site, pattern, with_query }) => {
            pen.0.push(2);
            pen.tags(site.as_slice());
            pen.0.push(u8::from(*with_query));
            pen.0.push(u8::from(pattern.is_some()));
            if let Some(pattern) = pattern {
                pen.bytes(pattern.as_str().as_bytes());
                pen.bytes(pattern.source().as_bytes());
            }
        }
        Order::All => pen.0.push(3),
    }
    record(Kind::Purge, &pen.0, 0)
}

/// Reads the meta of a purge's record.
#[must_use]
pub fn purged(meta: &[u8]) -> Option<Purged> {
    let mut eye = Eye(meta);
    let (sequence, at) = (eye.u64()?, eye.moment()?);
    let mode = if eye.u8()? == 0 { Mode::Hard } else { Mode::Soft };
    let order = match eye.u8()? {
        1 => Order::Tags(eye.tags()?),
        2 => {
            let site = eye.tags()?.first().copied();
            let with_query = eye.u8()? == 1;
            let pattern = if eye.u8()? == 1 {
                let (text, source) = (eye.text()?, eye.text()?);
                Some(Pattern::restored(text, source).ok()?)
            } else {
                None
            };
            Order::Reach(Reach { site, pattern, with_query })
        }
        3 => Order::All,
        _ => return None,
    };
    eye.0.is_empty().then_some(Purged { sequence, at, order, mode })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Writes.
struct Pen(Vec<u8>);

impl Pen {
    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn duration(&mut self, duration: Duration) {
        self.u64(millis(duration));
    }

    fn moment(&mut self, at: Moment) {
        self.u64(at.wall);
        self.u64(at.up);
        self.u64(at.boot);
    }

    /// A record that holds more than 4 GiB in one field is far too long to be written.
    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
    }

    fn tags(&mut self, tags: &[Tag]) {
        self.u32(u32::try_from(tags.len()).unwrap_or(u32::MAX));
        for tag in tags {
            self.u64(tag.value());
        }
    }

    fn lines(&mut self, lines: &Packed) {
        self.u32(u32::try_from(lines.lines().count()).unwrap_or(u32::MAX));
        for (name, value) in lines.lines() {
            self.bytes(name.as_str().as_bytes());
            self.bytes(value.as_bytes());
        }
    }

    fn variant(&mut self, stored: &Stored, body: BodyAt, now: Instant) {
        let Freshness { lifetime, while_revalidate, if_error, .. } = stored.freshness;
        self.u32(u32::from(stored.status.as_u16()));
        self.u64(stored.kept.as_ref().map_or(0, |kept| kept.under()));
        self.lines(&stored.head);
        self.lines(&stored.hidden);
        for duration in [lifetime, stored.freshness.age(now), while_revalidate, if_error] {
            self.duration(duration);
        }
        let Freshness { always_ask, heuristic, explicit, strict, .. } = stored.freshness;
        let said = [always_ask, heuristic, explicit, strict, stored.coded.is_some()];
        self.0.extend(said.map(u8::from));
        self.u32(u32::try_from(stored.selection.fields().len()).unwrap_or(u32::MAX));
        for (name, value) in stored.selection.fields() {
            self.bytes(name.as_str().as_bytes());
            self.bytes(value);
        }
        self.tags(stored.tagged.tags());
        self.u32(body.place.segment);
        self.u32(body.place.offset);
        self.u32(body.len);
        self.u32(body.sum);
    }
}

/// Reads; what is not there is `None`.
struct Eye<'a>(&'a [u8]);

impl<'a> Eye<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn flag(&mut self) -> Option<bool> {
        self.u8().map(|byte| byte == 1)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn duration(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_millis)
    }

    fn moment(&mut self) -> Option<Moment> {
        Some(Moment { wall: self.u64()?, up: self.u64()?, boot: self.u64()? })
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.take(len)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn tags(&mut self) -> Option<Vec<Tag>> {
        let count = self.u32()?;
        (0..count).map(|_| self.u64().map(Tag::from_value)).collect()
    }

    fn name(&mut self) -> Option<HeaderName> {
        HeaderName::from_bytes(self.bytes()?).ok()
    }

    fn lines(&mut self) -> Option<Packed> {
        let count = self.u32()?;
        let line = |_| Some((self.name()?, HeaderValue::from_bytes(self.bytes()?).ok()?));
        let lines: Vec<_> = (0..count).map(line).collect::<Option<_>>()?;
        Some(Packed::of(lines.iter().map(|(name, value)| (name, value))))
    }

    fn variant(&mut self, now: Instant) -> Option<Variant> {
        let status = StatusCode::from_u16(u16::try_from(self.u32()?).ok()?).ok()?;
        let under = self.u64()?;
        let (head, hidden) = (self.lines()?, self.lines()?);
        let (lifetime, initial_age, while_revalidate, if_error) =
            (self.duration()?, self.duration()?, self.duration()?, self.duration()?);
        let (always_ask, heuristic, explicit, strict, coded) =
            (self.flag()?, self.flag()?, self.flag()?, self.flag()?, self.flag()?);
        let count = self.u32()?;
        let fields = (0..count).map(|_| Some((self.name()?, self.bytes()?.into()))).collect::<Option<Vec<_>>>()?;
        let tags = self.tags()?;
        let place = Place { segment: self.u32()?, offset: self.u32()? };
        let body = BodyAt { place, len: self.u32()?, sum: self.u32()? };
        let freshness = Freshness {
            lifetime,
            initial_age,
            received: now,
            always_ask,
            while_revalidate,
            if_error,
            heuristic,
            explicit,
            strict,
            failed: None,
        };
        let stored = Stored {
            status,
            head,
            body: StoredBody::Whole(Bytes::new()),
            freshness,
            selection: Selection::restored(fields),
            hidden,
            tagged: Tagged::new(tags, 0),
            coded: None,
            kept: Some(Arc::new(Kept::under_terms(under))),
        };
        Some(Variant { stored, coded, body })
    }
}
