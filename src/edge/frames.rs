//! A look at the frames of an HTTP/2 client as they pass: which cost us work and bring it nothing (RFC 9113 10.5).
//!
//! Pings, settings, resets, empty frames and their like are all lawful, and each has to be handled. So there is a stock of
//! them: it is filled by time, and by bytes that are sent to the client, for who reads much has much to acknowledge.
//! Decides nothing about what a frame says; hyper does. Pure: time comes in only when the stock is used up.

use std::time::Duration;
use std::time::Instant;

/// RFC 9113 4.1: length, type, flags, stream.
const HEAD: usize = 9;

/// What every connection begins with, before the first frame.
const PREFACE: usize = 24;

/// The stock: what a busy page with everything on it may need at once, many times over.
const STOCK: u32 = 2000;

/// Frames that are earned each second.
const PER_SECOND: u32 = 100;

/// Bytes to the client for which one more frame is earned: a client with the smallest window that is in use (1 KiB)
/// acknowledges every half of it twice, for the stream and for the connection.
const PER_BYTES: usize = 128;

/// A reset may have made us begin something, so it costs more (CVE-2023-44487).
const RESET: u32 = 10;

/// The frames of one connection.
#[derive(Debug)]
pub struct Frames {
    head: [u8; HEAD],
    have: usize,
    /// Bytes to pass over: the preface, or a payload.
    skip: usize,
    stock: u32,
    filled: Instant,
    written: usize,
}

impl Frames {
    /// A connection that begins at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { head: [0; HEAD], have: 0, skip: PREFACE, stock: STOCK, filled: now, written: 0 }
    }

    /// Bytes of the client's pass. Says whether it is over the stock; `now` is asked only then.
    pub fn read(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        let mut over = false;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                self.have = 0;
                self.skip =
                    usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2]);
                over |= !self.pay(cost(&self.head), &now);
            }
        }
        over
    }

    /// Bytes were sent to the client.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= PER_BYTES {
            let earned = u32::try_from(self.written / PER_BYTES).unwrap_or(STOCK);
            self.written %= PER_BYTES;
            self.stock = self.stock.saturating_add(earned).min(STOCK);
        }
    }

    fn pay(&mut self, cost: u32, now: &impl Fn() -> Instant) -> bool {
        if self.stock < cost {
            let now = now();
            let earned = now.saturating_duration_since(self.filled).min(Duration::from_secs(60)).as_millis();
            let earned = u32::try_from(earned).unwrap_or(0).saturating_mul(PER_SECOND) / 1000;
            if earned > 0 {
                self.filled = now;
                self.stock = self.stock.saturating_add(earned).min(STOCK);
            }
        }
        let Some(left) = self.stock.checked_sub(cost) else { return false };
        self.stock = left;
        true
    }
}

/// What a frame costs, by its head (RFC 9113 6).
fn cost(head: &[u8; HEAD]) -> u32 {
    const END_STREAM: u8 = 1;
    let empty = head[..3] == [0, 0, 0];
    match head[3] {
        // DATA: bounded by size and rate of the body, unless it is empty and not the last.
        0 => u32::from(empty && head[4] & END_STREAM == 0),
        // HEADERS: a request, bounded as requests are.
        1 => 0,
        3 => RESET,
        // PRIORITY, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION, and what nobody knows.
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + payload, 0xff);
        frame
    }

    /// How many of `frames`, sent again and again without a pause, are taken.
    fn taken(frame: &[u8], pieces: usize) -> Option<usize> {
        let began = Instant::now();
        let mut frames = Frames::new(began);
        assert!(!frames.read(&[0; PREFACE], || began));
        (0..10_000).find(|_| frame.chunks(pieces).any(|piece| frames.read(piece, || began)))
    }

    #[test]
    fn only_frames_that_bring_nothing_are_counted() {
        for (name, frame, most) in [
            ("ping", frame(6, 0, 8), Some(2000)),
            ("settings", frame(4, 0, 0), Some(2000)),
            ("reset", frame(3, 0, 4), Some(200)),
            ("continuation", frame(9, 0, 100), Some(2000)),
            ("empty data", frame(0, 0, 0), Some(2000)),
            ("unknown", frame(0xfe, 0, 20_000), Some(2000)),
            ("last data", frame(0, 1, 0), None),
            ("data", frame(0, 0, 1000), None),
            ("headers", frame(1, 4, 100), None),
        ] {
            for pieces in [1, 7, 9, 64, 30_000] {
                assert_eq!(taken(&frame, pieces), most, "{name} in pieces of {pieces}");
            }
        }
    }

    #[test]
    fn time_and_what_is_sent_fill_the_stock_again() {
        let began = Instant::now();
        let mut frames = Frames::new(began);
        let ping = frame(6, 0, 8);
        assert!(!frames.read(&[0; PREFACE], || began));
        let spend = |frames: &mut Frames, now: Instant| (0..10_000).find(|_| frames.read(&ping, || now)).unwrap();
        assert_eq!(spend(&mut frames, began), 2000);
        // The frame that was refused has been read.
        assert_eq!(spend(&mut frames, began + Duration::from_secs(1)), 100);
        frames.wrote(128 * 50 + 100);
        assert_eq!(spend(&mut frames, began + Duration::from_secs(1)), 50);
        assert_eq!(spend(&mut frames, began + Duration::from_secs(3600)), 2000);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_counted_alike(bytes: Vec<u8>, at in 0..200_usize) {
            let now = Instant::now();
            let (mut whole, mut split) = (Frames::new(now), Frames::new(now));
            let over = whole.read(&bytes, || now);
            let (first, second) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(over, split.read(first, || now) || split.read(second, || now));
            prop_assert_eq!(whole.stock, split.stock);
        }
    }
}
