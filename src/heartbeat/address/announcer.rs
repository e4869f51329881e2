//! Tells the network where the service address is, and hears whoever else claims it.
//!
//! IPv4: gratuitous ARP, requests and replies alternating, for some stacks take only one of them (RFC 826, RFC 5227 3). IPv6:
//! unsolicited neighbour advertisements (RFC 4861 7.2.6). A claim of another machine is answered at once. Whatever fails is told
//! once; the address is up all the same, and neighbours find it when they ask again.

use super::Leave;
use crate::clock;
use crate::heartbeat::device;
use aws_lc_rs::rand;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketAddrAny;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::recv;
use rustix::net::recvfrom;
use rustix::net::sendto;
use rustix::net::socket_with;
use rustix::net::sockopt;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::SocketAddrV6;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tracing::error;
use tracing::warn;

/// Announces `address` on `device` and defends it while there is leave to. `assure` puts it up if it is not, and says whether it
/// was not; `conflicts` counts the claims of others.
///
/// # Errors
/// The interface is not there, has no hardware address, or went down.
pub(super) fn run(
    address: IpAddr,
    device: &str,
    assure: impl Fn() -> io::Result<bool>,
    leave: &Leave,
    conflicts: &AtomicU64,
) -> io::Result<()> {
    let assure = || {
        let put_up = leave.say(&assure)?;
        if put_up {
            warn!(%address, device, "the service address was gone from its interface, and is put up again");
        }
        io::Result::Ok(put_up)
    };
    assure()?;
    match address {
        IpAddr::V4(own) => speak(&Arp::open(own, device)?, assure, leave, conflicts),
        IpAddr::V6(own) => speak(&Neighbours::open(own, device)?, assure, leave, conflicts),
    }
}

/// When the announcement number `n` (from 0) is due, counted from the takeover.
#[must_use]
pub fn announcement_due(n: u32) -> Duration {
    const FIRST: [u64; 7] = [0, 20, 100, 300, 1_000, 2_000, 5_000];
    let at = usize::try_from(n).unwrap_or(usize::MAX);
    match FIRST.get(at) {
        Some(millis) => Duration::from_millis(*millis),
        None => Duration::from_millis(5_000) + Duration::from_secs(60) * (n - 6),
    }
}

/// A gratuitous ARP packet with its Ethernet header: a request or a reply, to everybody.
#[must_use]
pub fn arp_packet(mac: [u8; 6], address: Ipv4Addr, reply: bool) -> [u8; 42] {
    let mut packet = [0; 42];
    packet[..6].fill(0xff);
    packet[6..12].copy_from_slice(&mac);
    packet[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, if reply { 2 } else { 1 }]);
    packet[22..28].copy_from_slice(&mac);
    packet[28..32].copy_from_slice(&address.octets());
    // RFC 5227 3: the target's hardware address is ignored in a request; in a reply everybody is meant.
    packet[32..38].fill(if reply { 0xff } else { 0 });
    packet[38..42].copy_from_slice(&address.octets());
    packet
}

/// The other machine that claims `address` in this ARP packet, if it does.
#[must_use]
pub fn arp_claim(packet: &[u8], mac: [u8; 6], address: Ipv4Addr) -> Option<[u8; 6]> {
    let head = packet.get(12..20)?;
    let (sender, claimed) = (packet.get(22..28)?, packet.get(28..32)?);
    let claim = head == [8, 6, 0, 1, 8, 0, 6, 4] && claimed == address.octets() && sender != mac;
    claim.then(|| sender.try_into().ok()).flatten()
}

/// An unsolicited neighbour advertisement with the override flag; the kernel adds the checksum.
#[must_use]
pub fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> [u8; 32] {
    let mut packet = [0; 32];
    packet[0] = ADVERTISEMENT;
    // RFC 4861 4.4: R = 0, S = 0, O = 1.
    packet[4] = 0x20;
    packet[8..24].copy_from_slice(&address.octets());
    packet[24..26].copy_from_slice(&[TARGET_LINK_ADDRESS, 1]);
    packet[26..32].copy_from_slice(&mac);
    packet
}

/// The other machine that claims `address` in this neighbour advertisement, if it does.
#[must_use]
pub fn advertised(packet: &[u8], mac: [u8; 6], address: Ipv6Addr) -> Option<[u8; 6]> {
    let (head, mut options) = packet.split_at_checked(24)?;
    if head[0] != ADVERTISEMENT || head[8..] != address.octets() {
        return None;
    }
    // RFC 4861 4.6: kind, length in units of eight bytes, content.
    while let [kind, length, ..] = *options {
        let length = usize::from(Some(length).filter(|length| *length > 0)?);
        let (option, rest) = options.split_at_checked(length * 8)?;
        if kind == TARGET_LINK_ADDRESS {
            let sender = *option[2..].first_chunk()?;
            return Some(sender).filter(|sender| *sender != mac);
        }
        options = rest;
    }
    None
}

/// The network that an address is announced to.
trait Network {
    /// The address.
    fn address(&self) -> IpAddr;

    /// Says that the address is here; `reply`: in the other of the two ways, if there are two. Waits for nothing.
    fn tell(&self, reply: bool) -> io::Result<()>;

    /// Whoever else claims the address, if that is what is heard next. Waits for nothing.
    fn claim(&self) -> io::Result<Option<[u8; 6]>>;

    /// Where claims are heard.
    fn ear(&self) -> BorrowedFd<'_>;
}

/// Announces the address and defends it while there is leave to.
fn speak(
    network: &impl Network,
    assure: impl Fn() -> io::Result<bool>,
    leave: &Leave,
    conflicts: &AtomicU64,
) -> io::Result<()> {
    let address = network.address();
    let mut voice = Voice::new(clock::mono());
    while leave.holds() {
        let now = clock::mono();
        match voice.next(now) {
            Word::Announce { reply } => {
                if let Err(error) = leave.say(|| network.tell(reply)) {
                    warn!(%address, %error, "announcement could not be sent");
                }
                continue;
            }
            Word::Defend => {
                let _ = leave.say(|| network.tell(false).and(network.tell(true)));
                continue;
            }
            Word::Assure => {
                if assure()? {
                    voice = Voice::new(now);
                }
                continue;
            }
            Word::Silence(time) => {
                if !readable(network.ear(), time.min(GLANCE))? {
                    continue;
                }
            }
        }
        let Some(other) = network.claim()? else { continue };
        // After a release it is the new owner's good right.
        if !leave.holds() {
            break;
        }
        conflicts.fetch_add(1, Ordering::Relaxed);
        if voice.claimed(now) {
            error!(%address, claimed_by = %hex(other), "another machine claims the service address: split brain?");
        }
    }
    Ok(())
}

/// IPv4's: gratuitous ARP.
struct Arp {
    own: Ipv4Addr,
    mac: [u8; 6],
    link: SocketAddrAny,
    socket: OwnedFd,
}

impl Arp {
    fn open(own: Ipv4Addr, device: &str) -> io::Result<Self> {
        Ok(Self { own, mac: device::mac(device)?, link: link_of(device)?, socket: packet_socket(ETH_P_ARP)? })
    }
}

impl Network for Arp {
    fn address(&self) -> IpAddr {
        self.own.into()
    }

    fn tell(&self, reply: bool) -> io::Result<()> {
        let packet = arp_packet(self.mac, self.own, reply);
        sendto(&self.socket, &packet, SendFlags::DONTWAIT, &self.link)?;
        Ok(())
    }

    fn claim(&self) -> io::Result<Option<[u8; 6]>> {
        let mut packet = [0; 128];
        Ok(arp_claim(hear(self.socket.as_fd(), &mut packet)?, self.mac, self.own))
    }

    fn ear(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// IPv6's: unsolicited neighbour advertisements.
struct Neighbours {
    own: Ipv6Addr,
    mac: [u8; 6],
    index: u32,
    voice: Socket,
    /// Hears what is said to all nodes of the link and to nobody else: no router passes that on, so it was said here.
    ear: Socket,
}

impl Neighbours {
    fn open(own: Ipv6Addr, device: &str) -> io::Result<Self> {
        let (mac, index) = (device::mac(device)?, device::index(device)?);
        let socket = |address| {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
            socket.set_nonblocking(true)?;
            socket.bind(&SocketAddrV6::new(address, 0, 0, index).into())?;
            io::Result::Ok(socket)
        };
        let (voice, ear) = (socket(own)?, socket(ALL_NODES)?);
        voice.set_multicast_hops_v6(255)?;
        voice.set_multicast_if_v6(index)?;
        voice.set_multicast_loop_v6(false)?;
        // It would be given all that is said to the address.
        voice.set_recv_buffer_size(0)?;
        Ok(Self { own, mac, index, voice, ear })
    }
}

impl Network for Neighbours {
    fn address(&self) -> IpAddr {
        self.own.into()
    }

    fn tell(&self, _: bool) -> io::Result<()> {
        let packet = advertisement(self.mac, self.own);
        // Routers need not have an entry yet (RFC 9131 4).
        for group in [ALL_NODES, ALL_ROUTERS] {
            self.voice.send_to(&packet, &SocketAddrV6::new(group, 0, 0, self.index).into())?;
        }
        Ok(())
    }

    fn claim(&self) -> io::Result<Option<[u8; 6]>> {
        let mut packet = [0; 128];
        Ok(advertised(hear(self.ear.as_fd(), &mut packet)?, self.mac, self.own))
    }

    fn ear(&self) -> BorrowedFd<'_> {
        self.ear.as_fd()
    }
}

/// What to say of an address, and when.
#[derive(Debug)]
struct Voice {
    began: Instant,
    sent: u32,
    last_turn: Instant,
    assured: Instant,
    /// Not before.
    quiet_until: Instant,
    defended: Option<Instant>,
    defend_at: Option<Instant>,
}

/// What to say now.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    Announce {
        reply: bool,
    },
    Defend,
    /// Nothing; make sure that the address is up.
    Assure,
    Silence(Duration),
}

impl Voice {
    fn new(now: Instant) -> Self {
        Self { began: now, sent: 0, last_turn: now, assured: now, quiet_until: now, defended: None, defend_at: None }
    }

    /// What to say now. Who stood still for a while may have lost the address meanwhile without knowing: he is silent until
    /// the heartbeat's thread has had its say, and what he missed is not said any more.
    fn next(&mut self, now: Instant) -> Word {
        if now.saturating_duration_since(self.last_turn) > STALL {
            self.quiet_until = now + STALL;
            while now >= self.began + announcement_due(self.sent) {
                self.sent += 1;
            }
            self.defend_at = self.defend_at.map(|_| self.quiet_until);
        }
        self.last_turn = now;
        if self.defend_at.is_some_and(|at| now >= at) {
            self.defend_at = None;
            self.defended = Some(now);
            return Word::Defend;
        }
        let due = (self.began + announcement_due(self.sent)).max(self.quiet_until);
        if now >= due {
            self.sent += 1;
            return Word::Announce { reply: self.sent.is_multiple_of(2) };
        }
        let assure = (self.assured + ASSURE).max(self.quiet_until);
        if now >= assure {
            self.assured = now;
            return Word::Assure;
        }
        let next = self.defend_at.map_or(due, |at| at.min(due)).min(assure);
        Word::Silence(next.saturating_duration_since(now))
    }

    /// Another one claims the address: it is defended at once, or as soon as it may be after the last time, so that the last
    /// word is ours and yet two who both insist do not flood the network. Whether this is news.
    fn claimed(&mut self, now: Instant) -> bool {
        let news = self.defend_at.is_none();
        let earliest = self.defended.map_or(now, |last| last + DEFEND).max(self.quiet_until).max(now);
        self.defend_at.get_or_insert(earliest);
        news
    }
}

fn packet_socket(protocol: u16) -> io::Result<OwnedFd> {
    let protocol = u32::from(protocol.to_be()).try_into().ok().map(rustix::net::Protocol::from_raw);
    Ok(socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?)
}

/// The interface as packet sockets name it. There is no safe way to write that address down, so one is taken from a packet: a
/// marked broadcast is sent through the interface, and a packet socket sees it leave.
fn link_of(device: &str) -> io::Result<SocketAddrAny> {
    let tap = packet_socket(ETH_P_ALL)?;
    sockopt::set_socket_timeout(&tap, sockopt::Timeout::Recv, Some(TAP_WITHIN))?;
    let mut mark = [0; 16];
    rand::fill(&mut mark).map_err(|_| io::Error::other("no random numbers"))?;
    let voice = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    voice.set_broadcast(true)?;
    voice.bind_device(Some(device.as_bytes()))?;
    voice.send_to(&mark, &SocketAddr::from((Ipv4Addr::BROADCAST, DISCARD)).into())?;
    let due = clock::mono() + TAP_WITHIN;
    let mut packet = [0; 128];
    while clock::mono() < due {
        let (length, _, from) = recvfrom(&tap, &mut packet[..], RecvFlags::empty())?;
        // Behind the heads of Ethernet, IP and UDP.
        if let Some(from) = from.filter(|_| packet[..length].get(42..58) == Some(&mark[..])) {
            return Ok(from);
        }
    }
    Err(io::Error::other(format!("what is sent on {device} is not seen to leave")))
}

fn readable(socket: BorrowedFd<'_>, within: Duration) -> io::Result<bool> {
    let mut wanted = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    match poll(&mut wanted, Timespec::try_from(within).ok().as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The beginning of what is heard next; nothing when there is nothing all the same.
fn hear<'a>(socket: BorrowedFd<'_>, packet: &'a mut [u8]) -> io::Result<&'a [u8]> {
    match recv(socket, &mut *packet, RecvFlags::DONTWAIT) {
        Ok((length, _)) => Ok(&packet[..length.min(packet.len())]),
        Err(Errno::AGAIN | Errno::INTR) => Ok(&[]),
        Err(error) => Err(error.into()),
    }
}

fn hex(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// RFC 4861 4.4.
const ADVERTISEMENT: u8 = 136;
/// RFC 4861 4.6.1.
const TARGET_LINK_ADDRESS: u8 = 2;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_ALL: u16 = 3;
const DISCARD: u16 = 9;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// On a busy machine a marked packet may be one of many.
const TAP_WITHIN: Duration = Duration::from_secs(1);

/// How long the announcer sleeps at most before it looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(100);

/// At most one defence of the address in this time.
const DEFEND: Duration = Duration::from_millis(200);

/// How often the address is looked after.
const ASSURE: Duration = Duration::from_secs(1);

/// A turn that came so late was no turn: this node stood still. Long enough for the heartbeat to give the address up.
const STALL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn announcements_come_thick_at_first_and_then_once_a_minute() {
        let due: Vec<u128> = (0..9).map(|n| announcement_due(n).as_millis()).collect();
        assert_eq!(due, [0, 20, 100, 300, 1_000, 2_000, 5_000, 65_000, 125_000]);
    }

    #[test]
    fn a_gratuitous_arp_names_the_address_twice() {
        let own: Ipv4Addr = "192.0.2.9".parse().unwrap();
        for reply in [false, true] {
            let packet = arp_packet(MAC, own, reply);
            assert_eq!(packet[20..22], [0, if reply { 2 } else { 1 }]);
            assert_eq!((&packet[28..32], &packet[38..42]), (&own.octets()[..], &own.octets()[..]));
            assert_eq!(arp_claim(&packet, MAC, own), None, "our own is no conflict");
            assert_eq!(arp_claim(&packet, [2, 0, 0, 0, 0, 8], own), Some(MAC));
            assert_eq!(arp_claim(&packet, [2, 0, 0, 0, 0, 8], "192.0.2.10".parse().unwrap()), None);
        }
    }

    #[test]
    fn the_last_word_is_that_of_the_one_who_has_the_address() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut voice = Voice::new(start);
        assert_eq!(voice.next(at(0)), Word::Announce { reply: false });
        assert_eq!(voice.next(at(5)), Word::Silence(Duration::from_millis(15)));
        assert!(voice.claimed(at(5)));
        assert_eq!(voice.next(at(5)), Word::Defend);
        assert!(voice.claimed(at(10)) && !voice.claimed(at(11)));
        assert_eq!(voice.next(at(20)), Word::Announce { reply: true });
        assert_eq!(voice.next(at(50)), Word::Silence(Duration::from_millis(50)));
        assert_eq!(voice.next(at(100)), Word::Announce { reply: false });
        assert_eq!(voice.next(at(205)), Word::Defend);
    }

    #[test]
    fn who_stood_still_is_silent_until_he_knows_whether_the_address_is_his() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut voice = Voice::new(start);
        for millis in [0, 20, 100, 300] {
            assert!(matches!(voice.next(at(millis)), Word::Announce { .. }), "{millis}");
        }
        assert_eq!(
            voice.next(at(9_000)),
            Word::Silence(STALL),
            "what was missed is not said, nor is the address put up"
        );
        voice.claimed(at(9_001));
        assert_eq!(voice.next(at(9_200)), Word::Silence(Duration::from_millis(300)));
        assert_eq!(voice.next(at(9_500)), Word::Defend);
        assert_eq!(voice.next(at(9_501)), Word::Assure);
        assert_eq!(voice.next(at(9_502)), Word::Silence(Duration::from_millis(999)));
    }

    #[test]
    fn an_advertisement_overrides_what_neighbours_believe() {
        let packet = advertisement(MAC, "2001:db8::9".parse().unwrap());
        assert_eq!((packet[0], packet[1], packet[4]), (136, 0, 0x20));
        assert_eq!(packet[24..], [2, 1, 2, 0, 0, 0, 0, 7]);
        let (own, other) = ("2001:db8::9".parse().unwrap(), [2, 0, 0, 0, 0, 8]);
        assert_eq!(advertised(&packet, MAC, own), None, "our own is no conflict");
        assert_eq!(advertised(&packet, other, own), Some(MAC));
        assert_eq!(advertised(&packet, other, "2001:db8::a".parse().unwrap()), None);
        let nonce = [14, 1, 0, 0, 0, 0, 0, 0];
        let second = [&packet[..24], &nonce, &packet[24..]].concat();
        assert_eq!(advertised(&second, other, own), Some(MAC), "behind another option");
        for length in 0..second.len() {
            assert_eq!(advertised(&second[..length], other, own), None, "cut off after {length}");
        }
    }

    proptest! {
        #[test]
        fn any_packet_is_read_without_a_panic(packet: Vec<u8>) {
            let _ = arp_claim(&packet, MAC, Ipv4Addr::LOCALHOST);
            let advertisement = [&[136, 0, 0, 0, 0, 0, 0, 0], &Ipv6Addr::LOCALHOST.octets()[..], &packet].concat();
            let _ = advertised(&advertisement, MAC, Ipv6Addr::LOCALHOST);
        }
    }
}
