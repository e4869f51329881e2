//! What is learnt about endpoints, and what follows from it: health, warming up, orders to drain, resting, being stuck.

use crate::clock;
use crate::units::OriginAddr;
use crate::upstream::CheckKind;
use crate::upstream::Plan;
use crate::upstream::desk::Outage;
use crate::upstream::desk::warmup_rules;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::live::Member;
use crate::upstream::live::Standing;
use crate::upstream::live::Upstream;
use crate::upstream::live::lock;
use crate::upstream::machine::health;
use crate::upstream::machine::health::Evidence;
use crate::upstream::machine::health::State;
use crate::upstream::machine::outlier;
use crate::upstream::machine::outlier::Summary;
use crate::upstream::machine::outlier::Verdict;
use crate::upstream::machine::queue::EndpointId;
use crate::upstream::machine::stuck::Stage;
use crate::upstream::machine::warmup::Phase;
use crate::upstream::request::Description;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tracing::info;
use tracing::warn;

/// A request is long after this, where the operator has not said when one is stuck.
const LONG: Duration = Duration::from_secs(20);

/// What is left when the condition of an endpoint has changed.
struct Left {
    /// The endpoints of the serving set that take requests.
    open: usize,
    /// What is in flight at that endpoint.
    in_flight: usize,
    /// The requests that wait.
    waiting: usize,
}

impl Upstream {
    /// Takes evidence about `endpoint`, and lets the queue know if it changes anything.
    pub fn learn(&self, endpoint: &Endpoint, evidence: Evidence) {
        if evidence == Evidence::Answered {
            endpoint.answered.fetch_add(1, Ordering::Relaxed);
            if !endpoint.blemished.load(Ordering::Relaxed) {
                return;
            }
        }
        let standing = self.standing();
        let plan = &standing.plan;
        let now = clock::mono();
        let rules = health::Rules { rise: plan.check.rise, fall: plan.check.fall };
        let changed = {
            let mut condition = lock(&endpoint.condition);
            let changed = condition.health.learn(evidence, rules, now);
            endpoint.blemished.store(!condition.health.is_spotless(), Ordering::Relaxed);
            if changed == Some(State::Up) {
                condition.phase = Phase::begin(now, !plan.warmup.paths.is_empty());
            }
            changed
        };
        let name = self.name();
        match changed {
            None => {}
            Some(State::Up) => {
                endpoint.forget_samples();
                self.changed(endpoint, now, |Left { open, .. }| {
                    info!(upstream = %name, endpoint = %endpoint.addr, open, "endpoint is up");
                });
            }
            Some(State::Down) => {
                endpoint.pool.clear();
                let error = endpoint.last_error();
                self.changed(endpoint, now, |Left { open, in_flight, .. }| {
                    warn!(upstream = %name, endpoint = %endpoint.addr, error, in_flight, open, "endpoint is down");
                });
                // Only now, or whoever is woken could look before the queue knows.
                endpoint.fallen.notify_waiters();
            }
        }
    }

    /// Goes on with warming `endpoint` up; `slowest`: the slowest page of a round of warm-up paths, if one was made.
    pub fn warm(&self, endpoint: &Endpoint, slowest: Option<Duration>) {
        let standing = self.standing();
        let plan = &standing.plan;
        let now = clock::mono();
        let is_warm = {
            let mut condition = lock(&endpoint.condition);
            if condition.phase == Phase::Warm || condition.health.state() == State::Down {
                return;
            }
            let rules = warmup_rules(plan);
            let before = condition.phase;
            condition.phase = before.next(now, slowest, &rules);
            matches!((before, condition.phase), (Phase::Cold { .. }, Phase::Rising { .. }))
        };
        self.changed(endpoint, now, |_| {
            if is_warm {
                info!(upstream = %self.name(), endpoint = %endpoint.addr, "endpoint is warm");
            }
        });
    }

    /// Takes an endpoint out of service, or back in: it finishes what it has and gets nothing new.
    ///
    /// # Errors
    /// When no set has such an endpoint; the text names those that there are.
    pub fn drain(&self, addr: &OriginAddr, out: bool) -> Result<(), String> {
        let standing = self.standing();
        let Some(member) = standing.members.iter().find(|member| member.endpoint.addr == *addr) else {
            let known: Vec<String> = standing.members.iter().map(|member| member.endpoint.addr.to_string()).collect();
            let name = self.name();
            return Err(format!("upstream `{name}` has no endpoint {addr}; there are: {}", known.join(", ")));
        };
        let now = clock::mono();
        lock(&member.endpoint.condition).drained = out.then_some(now);
        self.changed(&member.endpoint, now, |Left { open, in_flight, .. }| {
            let what = if out { "endpoint is taken out by order" } else { "endpoint is put back by order" };
            info!(upstream = %self.name(), endpoint = %addr, in_flight, open, "{what}");
        });
        Ok(())
    }

    /// The condition of `endpoint` has changed: the queue and the gauges follow, and `tell` writes the diary, with no lock held.
    fn changed(&self, endpoint: &Endpoint, now: Instant, tell: impl FnOnce(&Left)) {
        let mut desk = lock(&self.desk);
        // Both are read under the desk's lock, or of two changes at once the older one could be the last to count.
        let (standing, condition) = (self.standing(), endpoint.condition());
        let granted = desk.adjust(endpoint.id, &condition, &standing.plan, now);
        let outage = desk.note_outage(now);
        desk.tell(granted);
        let (in_flight, limit) = (desk.queue.in_flight(endpoint.id), desk.queue.limit(endpoint.id));
        let left = Left { open: desk.queue.open().count(), in_flight, waiting: desk.queue.waiting() };
        drop(desk);
        for member in standing.members.iter().filter(|member| member.endpoint.id == endpoint.id) {
            member.counters.state(condition.word(in_flight, limit));
        }
        tell(&left);
        self.tell_outage(outage, left.waiting);
    }

    /// Writes the diary when nobody serves any more, or somebody does again.
    pub(super) fn tell_outage(&self, outage: Option<Outage>, waiting: usize) {
        let name = self.name();
        match outage {
            None => {}
            Some(Outage::Began) => {
                warn!(upstream = %name, waiting, "no endpoint serves: requests wait, what is stored is served stale");
                // They are looked at more often from now on.
                for Member { endpoint, .. } in &self.standing().members {
                    endpoint.doubted.notify_one();
                }
            }
            Some(Outage::Ended(lasted)) => info!(upstream = %name, waiting, ?lasted, "an endpoint serves again"),
        }
    }

    /// Lets a request try an endpoint that has been down for a while and that nobody checks.
    pub fn try_unchecked(&self) {
        let standing = self.standing();
        let check = &standing.plan.check;
        if check.kind != CheckKind::Off {
            return;
        }
        for member in &standing.members {
            let health = member.endpoint.condition().health;
            if health.state() == State::Down && health.lasting(clock::mono()) >= check.every {
                self.learn(&member.endpoint, Evidence::Trial);
            }
        }
    }

    /// Looks after what no single request tells: who is stuck, who stands out, who has rested, whether a careful beginning
    /// is over. To be called every now and then.
    pub fn patrol(&self) {
        let now = clock::mono();
        let standing = self.standing();
        {
            let mut desk = lock(&self.desk);
            let granted = desk.end_release(now, standing.plan.warmup.ramp);
            desk.tell(granted);
        }
        self.look_for_stuck(&standing, now);
        self.open_the_cold(&standing, now);
        self.name_the_long(&standing, now);
        self.look_for_outliers(&standing, now);
        self.close_pools(&standing);
    }

    /// Lets endpoints serve that are being warmed up, where nobody else does and that is not worth waiting for any longer: slow
    /// pages are better than none.
    fn open_the_cold(&self, standing: &Standing, now: Instant) {
        {
            let desk = lock(&self.desk);
            if desk.queue.is_paused() || desk.anyone_serves() || desk.hold_left(now).is_some() {
                return;
            }
        }
        for Member { endpoint, .. } in standing.members.iter().filter(|member| member.set == standing.plan.active) {
            let is_cold = {
                let mut condition = lock(&endpoint.condition);
                let is_cold = condition.health.state() == State::Up && matches!(condition.phase, Phase::Cold { .. });
                if is_cold {
                    condition.phase = Phase::Rising { since: now };
                }
                is_cold
            };
            if is_cold {
                self.changed(endpoint, now, |_| {
                    let name = self.name();
                    warn!(upstream = %name, endpoint = %endpoint.addr, "endpoint serves though it is cold: nobody else does");
                });
            }
        }
    }

    /// Closes the idle connections to endpoints that no set names any more: nobody else looks after them.
    fn close_pools(&self, standing: &Standing) {
        for endpoint in self.endpoints() {
            if !standing.members.iter().any(|member| member.endpoint.id == endpoint.id) {
                endpoint.pool.clear();
            }
        }
    }

    /// Closes all idle connections; says whether no request is under way that could leave another.
    pub(super) fn close_all(&self) -> bool {
        let endpoints = self.endpoints();
        let idle = endpoints.iter().all(|endpoint| lock(&self.desk).queue.in_flight(endpoint.id) == 0);
        for endpoint in &endpoints {
            endpoint.pool.clear();
        }
        idle
    }

    /// A request has ended at an endpoint that was stuck.
    pub(super) fn recovered(&self) {
        self.look_for_stuck(&self.standing(), clock::mono());
    }

    fn look_for_stuck(&self, standing: &Standing, now: Instant) {
        let plan = &standing.plan;
        let news = lock(&self.desk).look_for_stuck(now, plan.check.stuck, plan.threads);
        for (id, hanging) in news {
            let Some(endpoint) = self.endpoint(id) else { continue };
            let (name, addr, bound) = (self.name(), &endpoint.addr, plan.check.stuck);
            if let Some(hanging) = hanging {
                endpoint.note_error(format!("stuck: {hanging} requests have been under way for more than {bound:?}"));
            }
            self.changed(&endpoint, now, |_| {
                if let Some(hanging) = hanging {
                    warn!(upstream = %name, endpoint = %addr, hanging, ?bound, "endpoint is stuck: its requests hang");
                } else {
                    info!(upstream = %name, endpoint = %addr, "endpoint answers again");
                }
            });
        }
    }

    /// Names in the diary, once each and not too many, the requests that have held a thread for longer than the bound. Tunnels are
    /// meant to last. From then on no more is kept of a request than what is told about it: a tunnel of days shall not keep the
    /// snapshot under which it began.
    fn name_the_long(&self, standing: &Standing, now: Instant) {
        let stuck = standing.plan.check.stuck;
        let long = lock(&self.desk).newly_long(now, if stuck.is_zero() { LONG } else { stuck });
        let described: Vec<_> = long.into_iter().map(|(id, begun)| (id, begun.request.describe(), begun)).collect();
        for (id, description, begun) in &described {
            let before = lock(&self.desk).describe(*id, begun.id, Arc::new(description.clone()));
            // With no lock held.
            drop(before);
        }
        if stuck.is_zero() {
            return;
        }
        let told: Vec<_> = described.into_iter().filter(|(.., begun)| begun.stage != Stage::Tunnel).collect();
        let (named, unnamed) = {
            let mut notices = lock(&self.notices);
            let named = told.len().min(notices.left(now));
            notices.note(named, told.len() - named);
            (named, notices.owed(now))
        };
        let name = self.name();
        for (id, Description { method, site, url, client }, begun) in told.into_iter().take(named) {
            let Some(endpoint) = self.endpoint(id) else { continue };
            let (number, phase, abandoned) = (begun.id, begun.stage.as_str(), begun.abandoned);
            let age = Duration::from_secs(now.saturating_duration_since(begun.since).as_secs());
            info!(
                upstream = %name, endpoint = %endpoint.addr, number, ?age, phase, abandoned, method, url, site, client,
                "request takes long"
            );
        }
        if unnamed > 0 {
            info!(upstream = %name, requests = unnamed, "more requests take long; `tidegate status --requests` names them");
        }
    }

    fn look_for_outliers(&self, standing: &Standing, now: Instant) {
        let plan = &standing.plan;
        let serving: Vec<&Arc<Endpoint>> = standing
            .members
            .iter()
            .filter(|Member { set, .. }| *set == plan.active)
            .map(|member| &member.endpoint)
            .filter(|endpoint| endpoint.condition().health.state() == State::Up)
            .collect();
        for endpoint in &serving {
            let over = {
                let mut condition = lock(&endpoint.condition);
                let over = condition.rest.end(now);
                if over {
                    condition.phase = Phase::Rising { since: now };
                }
                over
            };
            if over {
                endpoint.forget_samples();
                self.changed(endpoint, now, |_| {
                    info!(upstream = %self.name(), endpoint = %endpoint.addr, "endpoint has rested");
                });
            }
        }
        if plan.check.rest.is_zero() {
            return;
        }
        let summaries: Vec<(EndpointId, Summary)> =
            serving.iter().map(|endpoint| (endpoint.id, endpoint.summary())).collect();
        for (at, endpoint) in serving.iter().enumerate() {
            let others: Vec<Summary> =
                summaries.iter().filter(|(id, _)| *id != endpoint.id).map(|(_, summary)| *summary).collect();
            let (_, own) = summaries[at];
            let verdict = outlier::judge(&own, &others);
            let resting = serving.iter().filter(|other| other.condition().rest.until().is_some()).count();
            if verdict != Verdict::Ordinary && outlier::may_rest(serving.len(), resting) {
                self.rest(endpoint, plan, now, &own);
            }
        }
    }

    fn rest(&self, endpoint: &Endpoint, plan: &Plan, now: Instant, own: &Summary) {
        {
            let mut condition = lock(&endpoint.condition);
            if condition.rest.until().is_some() {
                return;
            }
            condition.rest.begin(now, plan.check.rest);
        }
        let Summary { of, failed, median } = own;
        endpoint.note_error(format!(
            "rests, for it stands out: {failed} of its last {of} answers failed, the median took {median:?}"
        ));
        self.changed(endpoint, now, |Left { open, .. }| {
            let name = self.name();
            warn!(upstream = %name, endpoint = %endpoint.addr, of, failed, ?median, open, "endpoint stands out and rests");
        });
    }
}
