//! The cells that values are counted in: cheap to add to from many threads, summed when somebody looks.
//!
//! A cell that every request touches is striped: each thread adds to a stripe of its own, so that two workers never fight
//! for one cache line. Locks are only for what happens rarely. Nothing here can fail.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// Stripes per striped cell; more threads than that share them, which is slower and just as right.
const STRIPES: usize = 16;

/// The upper bounds of a histogram's buckets, in seconds: from a hit to the tail that Zope has.
pub const BOUNDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The same bounds in microseconds.
const BOUNDS_MICROS: [u64; BOUNDS.len()] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// Counts up from any thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `more` more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// The value is `value`.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A distribution of durations over [`BOUNDS`].
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), nanos: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// One event that took `duration`.
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // Rounded up, so that a bucket holds nothing above its bound.
        let micros = nanos.div_ceil(1000);
        let at = BOUNDS_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Adds what was seen to `total`.
    pub fn add_to(&self, total: &mut Distribution) {
        for (sum, bucket) in total.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        total.nanos = total.nanos.wrapping_add(self.nanos.load(Ordering::Relaxed));
    }

    /// What was seen.
    #[must_use]
    pub fn value(&self) -> Distribution {
        let mut total = Distribution::default();
        self.add_to(&mut total);
        total
    }
}

/// A histogram's value at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    buckets: [u64; BOUNDS.len() + 1],
    nanos: u64,
}

impl Distribution {
    /// How many events there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of their durations, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanos).as_secs_f64()
    }

    /// Each bucket's upper bound and its own events.
    #[must_use]
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        BOUNDS.iter().copied().chain([f64::INFINITY]).zip(self.buckets).collect()
    }
}

/// One `T` per thread, made when the thread first asks.
#[derive(Debug)]
pub struct Striped<T>([OnceLock<Box<Stripe<T>>>; STRIPES]);

/// Alone on its cache lines (two, for the processor fetches them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe<T>(T);

impl<T: Default> Default for Striped<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl<T: Default> Striped<T> {
    /// The calling thread's stripe.
    pub fn mine(&self) -> &T {
        // `stripe` is below STRIPES, and there is that many.
        let cell = &self.0[stripe() % STRIPES];
        &cell.get_or_init(Box::default).0
    }

    /// All stripes that were touched.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|cell| cell.get().map(|stripe| &stripe.0))
    }
}

/// The calling thread's stripe number.
fn stripe() -> usize {
    const UNKNOWN: usize = usize::MAX;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(UNKNOWN) };
    }
    // A thread that is being torn down has no number any more; the first stripe will do.
    MINE.try_with(|mine| {
        if mine.get() == UNKNOWN {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        mine.get()
    })
    .unwrap_or(0)
}

/// Counters by constant words, for what happens rarely enough for a lock.
///
/// The keys are made of `&'static str`, so the words are those in our source and their number has a bound; who counts by
/// other words keeps one himself.
#[derive(Debug)]
pub struct Words<K>(Mutex<BTreeMap<K, u64>>);

impl<K> Default for Words<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone> Words<K> {
    /// `more` more of `word`.
    pub fn add(&self, word: K, more: u64) {
        *lock(&self.0).entry(word).or_default() += more;
    }

    /// All words with their counts, in order.
    #[must_use]
    pub fn value(&self) -> Vec<(K, u64)> {
        lock(&self.0).iter().map(|(word, count)| (word.clone(), *count)).collect()
    }
}

/// Handles by identity: the same identity gets the same handle for as long as somebody holds it, and for a while longer.
#[derive(Debug)]
pub struct Handles<K, V>(RwLock<BTreeMap<K, Kept<V>>>);

/// A handle, and since when nobody else has been seen to hold it.
#[derive(Debug, Default)]
struct Kept<V> {
    handle: Arc<V>,
    gone: Option<Instant>,
}

impl<K, V> Default for Handles<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Ord + Clone, V: Default> Handles<K, V> {
    /// The handle of `key`.
    pub fn of(&self, key: &K) -> Arc<V> {
        if let Some(found) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Arc::clone(&found.handle);
        }
        let mut handles = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&handles.entry(key.clone()).or_insert_with(|| Kept { handle: Arc::default(), gone: None }).handle)
    }

    /// Forgets what nobody has held for `after`.
    pub fn forget(&self, now: Instant, after: Duration) {
        let mut handles = self.0.write().unwrap_or_else(PoisonError::into_inner);
        handles.retain(|_, kept| {
            if Arc::strong_count(&kept.handle) > 1 {
                kept.gone = None;
                return true;
            }
            let gone = *kept.gone.get_or_insert(now);
            now.saturating_duration_since(gone) < after
        });
    }

    /// All handles, in the order of their keys.
    #[must_use]
    pub fn all(&self) -> Vec<(K, Arc<V>)> {
        let handles = self.0.read().unwrap_or_else(PoisonError::into_inner);
        handles.iter().map(|(key, kept)| (key.clone(), Arc::clone(&kept.handle))).collect()
    }

    /// The handles that somebody holds besides us: what is in use now.
    #[must_use]
    pub fn in_use(&self) -> Vec<(K, Arc<V>)> {
        let handles = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let held = handles.iter().filter(|(_, kept)| Arc::strong_count(&kept.handle) > 1);
        held.map(|(key, kept)| (key.clone(), Arc::clone(&kept.handle))).collect()
    }
}

/// Locks; a panic while counting leaves a count that is off by one and nothing worse.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_bucket_holds_what_is_not_above_its_bound() {
        let histogram = Histogram::default();
        for nanos in [0, 20_000, 1_000_000, 1_000_001, 2_500_000, 60_000_000_000, 60_000_000_001, 90_000_000_000] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let value = histogram.value();
        let counts: Vec<u64> = value.buckets().iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(value.count(), 8);
        assert!((value.seconds() - 210.004_520).abs() < 1e-6, "{}", value.seconds());
        for (seconds, micros) in BOUNDS.iter().zip(BOUNDS_MICROS) {
            assert!((Duration::from_micros(micros).as_secs_f64() - seconds).abs() < 1e-9);
        }
    }

    #[test]
    fn no_count_is_lost_between_threads() {
        let cell: Striped<Counter> = Striped::default();
        let words: Words<&'static str> = Words::default();
        thread::scope(|scope| {
            for _ in 0..24 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        cell.mine().inc();
                    }
                    words.add("word", 2);
                });
            }
        });
        assert_eq!(cell.all().map(Counter::value).sum::<u64>(), 24_000);
        assert_eq!(words.value(), [("word", 48)]);
    }

    #[test]
    fn what_nobody_has_held_for_long_enough_begins_at_zero_and_what_comes_back_before_goes_on() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let handles: Handles<u8, Counter> = Handles::default();
        let (stays, goes) = (handles.of(&1), handles.of(&2));
        stays.add(1);
        goes.add(2);
        let forget = |second| handles.forget(at(second), Duration::from_secs(600));
        drop(goes);
        forget(0);
        forget(599);
        let back = handles.of(&2);
        assert_eq!(back.value(), 2, "it was away for less than that");
        forget(700);
        drop(back);
        forget(1000);
        forget(1599);
        assert_eq!(handles.all().len(), 2);
        forget(1600);
        assert_eq!(handles.all().iter().map(|(key, _)| *key).collect::<Vec<_>>(), [1]);
        assert_eq!((handles.of(&1).value(), handles.of(&2).value()), (1, 0));
    }

    #[test]
    fn a_name_has_one_handle() {
        let handles: Handles<u8, Counter> = Handles::default();
        handles.of(&1).add(5);
        assert_eq!(handles.of(&1).value(), 5, "counters survive when nobody holds the handle");
        let held = handles.of(&2);
        assert_eq!(handles.in_use().iter().map(|(key, _)| *key).collect::<Vec<_>>(), [2]);
        drop(held);
        assert!(handles.in_use().is_empty());
        assert_eq!(handles.all().len(), 2);
    }
}
