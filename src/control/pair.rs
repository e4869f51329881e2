//! The pair on the admin socket: what can be asked and ordered there.

use crate::clock;
use crate::config;
use crate::config::Config;
use crate::control::publisher::Publisher;
use crate::heartbeat::doctor;
use crate::heartbeat::machine::Order;
use crate::heartbeat::pair::Pair;
use crate::heartbeat::simulate;
use crate::heartbeat::simulate::Faults;
use serde_json::Value;
use std::sync::Arc;

/// Answers what is asked below `/pair`.
///
/// # Errors
/// When there is no pair, or no such question.
pub async fn told(publisher: &Publisher, path: &str) -> Result<Value, String> {
    let pair = joined(publisher)?;
    match path {
        "/pair" => pair.status().await,
        "/pair/doctor" => {
            let status = pair.status().await?;
            Ok(Value::Array(doctor::examine(pair.plan(), &status).await))
        }
        _ => Err("there are /pair and /pair/doctor".to_owned()),
    }
}

/// Follows an order of `who` below `/pair/`; `what`: its argument.
///
/// # Errors
/// Why it is not followed.
pub async fn order(publisher: &Publisher, path: &str, what: Option<String>, who: &str) -> Result<String, String> {
    let pair = joined(publisher)?;
    let (order, done) = match path {
        "/pair/switchover" => {
            (Order::Switchover, "the role is given to the other member; `tidegate pair status` shows it")
        }
        "/pair/standby" => (Order::Standby, "this member stays on standby until `tidegate pair online`"),
        "/pair/online" => (Order::Online, "this member may have the role again"),
        "/pair/maintenance" => match what.as_deref() {
            Some("on") => (Order::Maintenance(true), "maintenance: nothing is done by itself in the whole pair"),
            Some("off") => (Order::Maintenance(false), "maintenance is over"),
            _ => return Err("say what=on or what=off".to_owned()),
        },
        "/pair/takeover" => {
            if what.as_deref() != Some("yes") {
                return Err("say force=yes: you declare that the other member is off".to_owned());
            }
            (Order::ForceTakeover, "this member takes the role; `tidegate pair status` shows it")
        }
        "/pair/trust-journal" => (Order::TrustJournal, "this voter votes again"),
        _ => {
            return Err(
                "there are /pair/switchover, standby, online, maintenance, takeover and trust-journal".to_owned()
            );
        }
    };
    pair.order(order, who).await.map(|()| done.to_owned())
}

/// What the pair of a configuration would do when this goes wrong; nothing is touched.
///
/// # Errors
/// When there is no pair, or a fault names nobody.
pub fn simulate(
    config: &Config,
    kill: Vec<String>,
    cut: Vec<String>,
    storage: Option<String>,
    fence_fails: bool,
) -> Result<String, String> {
    let plan = config::pair::plan(&config.heartbeat).0.filter(|_| config.heartbeat.node.is_some());
    let plan = plan.ok_or_else(|| "there is no [heartbeat] in this file".to_owned())?;
    simulate::tell(&plan, &Faults { kill, cut, storage, fence_fails }, clock::mono())
}

fn joined(publisher: &Publisher) -> Result<&Arc<Pair>, String> {
    publisher.pair().ok_or_else(|| "this tidegate takes part in no pair: it has no [heartbeat]".to_owned())
}
