//! What voters tell each other: one fixed-size datagram that carries the whole public state of its sender.
//!
//! Every beat repeats everything, so a lost, doubled or overtaken one costs nothing but its time. Encoding and decoding are
//! pure; what is not ours, not whole, or not sealed with one of our keys is a [`Reject`] to be counted and dropped. Whether a
//! beat is fresh (no replay) is judged by the machine, from the boot ids, the sequence and the echo.

use super::claim::Ground;
use super::names::BootId;
use super::names::ClusterName;
use super::names::Epoch;
use super::names::LINKS_MAX;
use super::names::LinkId;
use super::names::MEMBERS;
use super::names::NodeId;
use super::names::Roster;
use super::names::VOTERS_MAX;
use crate::zodb::Tid;
use aws_lc_rs::hmac;

/// The size of every datagram: head, body, seal.
pub const DATAGRAM: usize = HEAD + BODY + SEAL;

const MAGIC: [u8; 4] = *b"tgHB";
const VERSION: u8 = 1;
const HEAD: usize = 4 + 1 + 3 + 32 + 8;
const BODY: usize = 272;
const SEAL: usize = 32;

/// One heartbeat, to one voter on one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Beat {
    /// Who says it.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// On which link.
    pub link: LinkId,
    /// Since which start the sender runs.
    pub boot: BootId,
    /// Microseconds since that start, strictly growing: order and send time in one.
    pub seq: u64,
    /// What the sender last heard from the receiver on this link.
    pub echo: Echo,
    /// The highest epoch that the sender has heard of.
    pub seen: Epoch,
    /// The sender's last vote, on disk.
    pub vote: Option<Vote>,
    /// What the sender is doing.
    pub standing: Standing,
    /// The epoch in which it has the role; 0 when it has not.
    pub held: Epoch,
    /// What it asks the voters for.
    pub ask: Option<Ask>,
    /// What it answers to the receiver's last request or renewal.
    pub answer: Option<Answer>,
    /// What it knows of the two members.
    pub members: [Hearsay; MEMBERS],
    /// The last transaction of its own copy; 0 for a witness.
    pub tid: Tid,
    /// The last transaction of an active that it has heard of.
    pub known: Known,
    /// Whether its self-fence is armed.
    pub armed: bool,
    /// For how long, in microseconds, it takes itself to be active after a renewal: voters count that and a hundredth more.
    pub lease_us: u32,
    /// Whether it would take the role if it had to.
    pub ready: bool,
    /// Whether the pair is in maintenance.
    pub maintenance: Maintenance,
    /// "A majority finds the service that you hold in this epoch sick: give it to me."
    pub plea: Epoch,
    /// Why it refuses to take over, as a code of [`super::Refusal`]; 0 when it does not refuse.
    pub refusal: u8,
    /// Why it is not `ready`, as such a code; 0 when it is.
    pub unready: u8,
}

/// The last beat heard from somebody on a link; all zeros when there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Echo {
    /// Its sender's start.
    pub boot: BootId,
    /// Its number.
    pub seq: u64,
}

/// One vote of one voter in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vote {
    /// In which.
    pub epoch: Epoch,
    /// For whom.
    pub candidate: NodeId,
}

/// What a voter is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It stores nothing and votes.
    Witness,
    /// A member that has just started and makes sure that its resources are down.
    Booting,
    /// A member whose resources are down and whose address is dropped.
    Standby,
    /// A standby that asks for votes or waits for a proof.
    Bidding,
    /// It has the role and brings the service up.
    Taking,
    /// It has the role and serves.
    Active,
    /// It gives the role up and stops the service.
    Stopping,
    /// It could not stop the service: it asks to be fenced.
    StopFailed,
}

/// A candidate's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// For which epoch.
    pub epoch: Epoch,
    /// Only "would you?", or in earnest.
    pub earnest: bool,
    /// What makes it ask.
    pub ground: Ground,
    /// For how long, in microseconds, a vote must not be followed by one for the other member: the time in which the
    /// candidate may shoot.
    pub hold_us: u32,
}

/// A voter's answer to the receiver's request, or its renewal of the receiver's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The epoch that was asked for, or is held.
    pub epoch: Epoch,
    /// The newest beat of the receiver that this answers: the lease counts from when that was sent.
    pub seq: u64,
    /// Yes or no.
    pub verdict: Verdict,
}

/// Yes, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The vote, on disk; or the lease, renewed.
    Granted,
    /// The vote would be given.
    Would,
    /// No.
    Denied(Denial),
}

/// Why a voter denies its vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// It has seen an epoch as high, or voted in it for somebody else.
    OldEpoch,
    /// It still hears the service of the active.
    ServiceHeard,
    /// It started, or stalled, too short ago to know who is silent.
    JustStarted,
    /// Its journal was lost, and it has not yet heard what a majority has voted.
    JournalLost,
    /// The other member may still act on its last vote.
    Bound,
    /// It has the role itself, or is about to.
    OwnRole,
    /// The pair is in maintenance.
    Maintenance,
    /// It could not write the vote down.
    SaveFailed,
}

impl Denial {
    /// In words.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::OldEpoch => "it has voted in that epoch, or heard of a higher one",
            Self::ServiceHeard => "it still gets answers from the active's storage",
            Self::JustStarted => "it started, or stood still, too short ago to know who is silent",
            Self::JournalLost => "its journal was lost, and the others have not told it enough yet",
            Self::Bound => "the other member may still act on its last vote",
            Self::OwnRole => "it has the role, or is about to have it",
            Self::Maintenance => "the pair is in maintenance",
            Self::SaveFailed => "it cannot write its journal",
        }
    }
}

/// What a voter knows of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hearsay {
    /// The highest epoch up to which the member has said that it stopped and will not act: its release.
    pub released: Epoch,
    /// How long, in microseconds, the last lease or vote that this voter gave to it may still run.
    pub left_us: u32,
    /// The epoch of the last self-fence that the member has announced as armed, if it has not taken that back.
    pub armed: Epoch,
    /// The highest epoch in which this voter gave it a vote or a lease, or may have.
    pub backed: Epoch,
    /// How it finds the member's service.
    pub service: Service,
}

/// How an observer finds a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// It has not looked, or not for long.
    Unknown,
    /// It answers.
    Good,
    /// It failed its probes.
    Sick,
}

/// A transaction, and the epoch of the active that announced it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Known {
    /// Announced by the holder of this epoch.
    pub epoch: Epoch,
    /// Its last transaction.
    pub tid: Tid,
}

/// The operator's word that nothing shall be done; the highest version counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Maintenance {
    /// Counts the orders.
    pub version: u32,
    /// What the last one said.
    pub on: bool,
}

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// Not of our size, or not our magic: garbage.
    Garbage,
    /// Of a version that this program does not speak.
    Version(u8),
    /// Of another pair.
    Cluster,
    /// Sealed with no key of ours, or changed on its way.
    Key,
    /// Of a voter that has other names configured.
    Roster,
    /// Sealed, and yet senseless: a bug, or a newer program.
    Field,
}

/// The keys: the first seals, all open, so that keys can be changed one voter after the other.
pub struct KeyRing {
    keys: Vec<hmac::Key>,
}

/// No key, or one that is too short to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// The list was empty.
    #[error("there is no key; write one of 32 random bytes or more (`openssl rand -hex 32`)")]
    None,
    /// One of them.
    #[error("key {place} has {length} bytes; 16 are the least (`openssl rand -hex 32`)")]
    Short {
        /// Which, from 1.
        place: usize,
        /// How short.
        length: usize,
    },
    /// More than is sensible: each costs a hash per forged datagram.
    #[error("{0} keys; keep the newest, and those that some voter still uses: 4 at most")]
    Many(usize),
}

impl KeyRing {
    /// Takes the keys, the one to seal with first.
    ///
    /// # Errors
    /// When there is none, more than four, or one has fewer than 16 bytes.
    pub fn new(keys: &[&[u8]]) -> Result<Self, BadKey> {
        if keys.is_empty() {
            return Err(BadKey::None);
        }
        if keys.len() > 4 {
            return Err(BadKey::Many(keys.len()));
        }
        for (place, key) in keys.iter().enumerate() {
            if key.len() < 16 {
                return Err(BadKey::Short { place: place + 1, length: key.len() });
            }
        }
        Ok(Self { keys: keys.iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect() })
    }

    /// The seal of `text`.
    pub(in crate::heartbeat) fn seal(&self, text: &[u8]) -> [u8; SEAL] {
        let mut seal = [0; SEAL];
        if let Some(key) = self.keys.first() {
            seal.copy_from_slice(hmac::sign(key, text).as_ref());
        }
        seal
    }

    /// Whether `seal` is one of `text` by any of the keys.
    pub(in crate::heartbeat) fn opens(&self, text: &[u8], seal: &[u8]) -> bool {
        self.keys.iter().any(|key| hmac::verify(key, text, seal).is_ok())
    }
}

/// Writes a beat as a datagram.
#[must_use]
pub fn encode(beat: &Beat, keys: &KeyRing, cluster: &ClusterName, roster: &Roster) -> [u8; DATAGRAM] {
    let mut datagram = [0; DATAGRAM];
    let mut out = Writer { bytes: &mut datagram, at: 0 };
    out.put(&MAGIC);
    out.put(&[VERSION, 0, 0, 0]);
    out.put(cluster.bytes());
    out.u64(roster.digest());
    body(beat, &mut out);
    let seal = keys.seal(&datagram[..HEAD + BODY]);
    datagram[HEAD + BODY..].copy_from_slice(&seal);
    datagram
}

/// Reads a datagram. Never panics, and believes nothing before the seal was found good.
///
/// # Errors
/// With the reason for which it is to be dropped and counted.
pub fn decode(datagram: &[u8], keys: &KeyRing, cluster: &ClusterName, roster: &Roster) -> Result<Beat, Reject> {
    let mut input = Reader { bytes: datagram, at: 0 };
    if datagram.len() != DATAGRAM || input.take::<4>() != Some(MAGIC) {
        return Err(Reject::Garbage);
    }
    let [version, ..] = input.take::<4>().ok_or(Reject::Garbage)?;
    if version != VERSION {
        return Err(Reject::Version(version));
    }
    if input.take::<32>() != Some(*cluster.bytes()) {
        return Err(Reject::Cluster);
    }
    let (text, seal) = datagram.split_at(HEAD + BODY);
    if !keys.opens(text, seal) {
        return Err(Reject::Key);
    }
    if input.u64() != Some(roster.digest()) {
        return Err(Reject::Roster);
    }
    let beat = parse(&mut input).ok_or(Reject::Field)?;
    let known = |id: NodeId| id.at() < roster.voters();
    if known(beat.from) && known(beat.to) && beat.from != beat.to { Ok(beat) } else { Err(Reject::Field) }
}

struct Writer<'a> {
    bytes: &'a mut [u8; DATAGRAM],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }
}

fn body(beat: &Beat, out: &mut Writer<'_>) {
    out.put(&[beat.from.0, beat.to.0, beat.link.0, standing_code(beat.standing)]);
    out.u64(beat.boot.0);
    out.u64(beat.seq);
    out.u64(beat.echo.boot.0);
    out.u64(beat.echo.seq);
    out.u64(beat.seen.0);
    out.u64(beat.vote.map_or(0, |vote| vote.epoch.0));
    out.u8(beat.vote.map_or(0xff, |vote| vote.candidate.0));
    out.u64(beat.held.0);
    out.u64(beat.ask.map_or(0, |ask| ask.epoch.0));
    out.u8(beat.ask.map_or(0, |ask| 1 + u8::from(ask.earnest)));
    out.u8(beat.ask.map_or(0, |ask| ground_code(ask.ground)));
    out.u32(beat.ask.map_or(0, |ask| ask.hold_us));
    out.u64(beat.answer.map_or(0, |answer| answer.epoch.0));
    out.u64(beat.answer.map_or(0, |answer| answer.seq));
    out.u8(beat.answer.map_or(0, |answer| verdict_code(answer.verdict)));
    for member in &beat.members {
        out.u64(member.released.0);
        out.u32(member.left_us);
        out.u64(member.armed.0);
        out.u64(member.backed.0);
        out.u8(service_code(member.service));
    }
    out.u64(beat.tid.0);
    out.u64(beat.known.epoch.0);
    out.u64(beat.known.tid.0);
    out.u8(u8::from(beat.armed));
    out.u32(beat.lease_us);
    out.u8(u8::from(beat.ready));
    out.u32(beat.maintenance.version);
    out.u8(u8::from(beat.maintenance.on));
    out.u64(beat.plea.0);
    out.u8(beat.refusal);
    out.u8(beat.unready);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = self.bytes.get(self.at..self.at.checked_add(N)?)?.try_into().ok()?;
        self.at += N;
        Some(found)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn epoch(&mut self) -> Option<Epoch> {
        self.u64().map(Epoch)
    }
}

fn parse(input: &mut Reader<'_>) -> Option<Beat> {
    let [from, to, link, standing] = input.take::<4>()?;
    let (boot, seq) = (BootId(input.u64()?), input.u64()?);
    let echo = Echo { boot: BootId(input.u64()?), seq: input.u64()? };
    let seen = input.epoch()?;
    let vote = parse_vote(input).ok()?;
    let held = input.epoch()?;
    let ask = parse_ask(input).ok()?;
    let answer = parse_answer(input).ok()?;
    let members = [parse_hearsay(input)?, parse_hearsay(input)?];
    let beat = Beat {
        from: NodeId(from),
        to: NodeId(to),
        link: LinkId(link),
        boot,
        seq,
        echo,
        seen,
        vote,
        standing: *STANDINGS.get(usize::from(standing))?,
        held,
        ask,
        answer,
        members,
        tid: Tid(input.u64()?),
        known: Known { epoch: input.epoch()?, tid: Tid(input.u64()?) },
        armed: input.flag()?,
        lease_us: input.u32()?,
        ready: input.flag()?,
        maintenance: Maintenance { version: input.u32()?, on: input.flag()? },
        plea: input.epoch()?,
        refusal: input.u8()?,
        unready: input.u8()?,
    };
    (sensible(&beat)).then_some(beat)
}

/// Sealed, and yet no beat.
struct Senseless;

/// What no correct voter says.
fn sensible(beat: &Beat) -> bool {
    let member = beat.from.is_member();
    let witness = beat.standing == Standing::Witness;
    let role = matches!(beat.standing, Standing::Taking | Standing::Active);
    usize::from(beat.from.0) < VOTERS_MAX
        && usize::from(beat.to.0) < VOTERS_MAX
        && usize::from(beat.link.0) < LINKS_MAX
        && beat.boot.0 != 0
        && member != witness
        && (member || (beat.held.0 == 0 && beat.ask.is_none()))
        && (!role || beat.held.0 != 0)
}

fn parse_vote(input: &mut Reader<'_>) -> Result<Option<Vote>, Senseless> {
    let (epoch, candidate) = (input.epoch().ok_or(Senseless)?, NodeId(input.u8().ok_or(Senseless)?));
    match (epoch.0, candidate.is_member()) {
        (0, _) => Ok(None),
        (_, true) => Ok(Some(Vote { epoch, candidate })),
        (_, false) => Err(Senseless),
    }
}

fn parse_ask(input: &mut Reader<'_>) -> Result<Option<Ask>, Senseless> {
    let (epoch, kind) = (input.epoch().ok_or(Senseless)?, input.u8().ok_or(Senseless)?);
    let (ground, hold_us) = (input.u8().ok_or(Senseless)?, input.u32().ok_or(Senseless)?);
    match kind {
        0 => Ok(None),
        1 | 2 if epoch.0 > 0 => {
            let ground = *GROUNDS.get(usize::from(ground)).ok_or(Senseless)?;
            Ok(Some(Ask { epoch, earnest: kind == 2, ground, hold_us }))
        }
        _ => Err(Senseless),
    }
}

fn parse_answer(input: &mut Reader<'_>) -> Result<Option<Answer>, Senseless> {
    let (epoch, seq) = (input.epoch().ok_or(Senseless)?, input.u64().ok_or(Senseless)?);
    match input.u8().ok_or(Senseless)? {
        0 => Ok(None),
        code => {
            let verdict = *VERDICTS.get(usize::from(code - 1)).ok_or(Senseless)?;
            Ok(Some(Answer { epoch, seq, verdict }))
        }
    }
}

fn parse_hearsay(input: &mut Reader<'_>) -> Option<Hearsay> {
    Some(Hearsay {
        released: input.epoch()?,
        left_us: input.u32()?,
        armed: input.epoch()?,
        backed: input.epoch()?,
        service: *SERVICES.get(usize::from(input.u8()?))?,
    })
}

const STANDINGS: [Standing; 8] = [
    Standing::Witness,
    Standing::Booting,
    Standing::Standby,
    Standing::Bidding,
    Standing::Taking,
    Standing::Active,
    Standing::Stopping,
    Standing::StopFailed,
];

const GROUNDS: [Ground; 5] = [Ground::Silence, Ground::Released, Ground::FenceMe, Ground::Vacant, Ground::Ordered];

const VERDICTS: [Verdict; 10] = [
    Verdict::Granted,
    Verdict::Would,
    Verdict::Denied(Denial::OldEpoch),
    Verdict::Denied(Denial::ServiceHeard),
    Verdict::Denied(Denial::JustStarted),
    Verdict::Denied(Denial::JournalLost),
    Verdict::Denied(Denial::Bound),
    Verdict::Denied(Denial::OwnRole),
    Verdict::Denied(Denial::Maintenance),
    Verdict::Denied(Denial::SaveFailed),
];

const SERVICES: [Service; 3] = [Service::Unknown, Service::Good, Service::Sick];

fn place<T: PartialEq>(table: &[T], value: &T) -> u8 {
    table.iter().position(|entry| entry == value).and_then(|place| u8::try_from(place).ok()).unwrap_or(0)
}

fn standing_code(standing: Standing) -> u8 {
    place(&STANDINGS, &standing)
}

fn ground_code(ground: Ground) -> u8 {
    place(&GROUNDS, &ground)
}

fn verdict_code(verdict: Verdict) -> u8 {
    place(&VERDICTS, &verdict) + 1
}

fn service_code(service: Service) -> u8 {
    place(&SERVICES, &service)
}

#[cfg(test)]
pub(super) use tests::some_beat as sample;

#[cfg(test)]
mod tests;
