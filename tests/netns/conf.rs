//! What the nodes' files say: configurations, an init script, power switches.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::World;

/// What a member's storage is to its tidegate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A process that tidegate supervises, and can kill at once: the end of a lease proves something.
    Supervised,
    /// The work of an init script: only a fence or a release proves anything.
    ByInitScript,
}

/// The profile of times. The fast one is for figures.
pub fn is_fast() -> bool {
    std::env::var("TIDEGATE_NETNS_TIMES").as_deref() == Ok("fast")
}

/// Writes all files of a world.
pub fn furnish(world: &World) -> anyhow::Result<()> {
    let key = world.path("key");
    fs::write(&key, "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let zeo = "<zeo>\n address $(ZEO_ADDRESS)\n</zeo>\n<filestorage 1>\n path $(ZEO_DATA)\n</filestorage>\n";
    fs::write(world.path("zeo.conf"), zeo)?;
    fs::copy(world.environment.data(), world.path("Data.fs"))?;
    for (node, peer) in [("a", "b"), ("b", "a")] {
        let home = world.path(node);
        fs::create_dir(&home)?;
        // One disk for both. Locks and indices are beside the name, so that of the two machines each has its own.
        std::os::unix::fs::symlink("../Data.fs", home.join("Data.fs"))?;
        script(&world.path(&format!("fence-{node}")), &fence(world, node))?;
        script(&world.path(&format!("init-{node}")), &init(world, node))?;
        world.set_fence(node, "answers")?;
        fs::write(world.config(node, Kept::Supervised), member(world, node, peer, Kept::Supervised))?;
        fs::write(world.config(node, Kept::ByInitScript), member(world, node, peer, Kept::ByInitScript))?;
    }
    for kept in [Kept::Supervised, Kept::ByInitScript] {
        fs::write(world.config("w", kept), witness(world))?;
    }
    Ok(())
}

fn script(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// A device that acts as a power switch, and can be told to behave badly: the cables go dead before anything ends, so that
/// nobody hears of the end; and the machine forgets what it was given.
fn fence(world: &World, node: &str) -> String {
    let (mode, mark) = (world.path(&format!("{node}.fence")), world.path(&format!("{node}.shot")));
    let (namespace, switch) = (world.fabric.namespace(node), world.fabric.namespace("s"));
    format!(
        "#!/bin/sh\nread mode < {mode}\n\
         case $mode in unreachable) sleep 100;; refuses) exit 1;; slow) [ \"$1\" = off ] && sleep 3;; *) sleep 0.2;; esac\n\
         if [ \"$1\" = off ]; then\n\
         ip -n {switch} link set {node}0 down\nip -n {switch} link set {node}1 down\n\
         ip netns pids {namespace} | xargs -r kill -9\n\
         for address in {addresses}; do ip -n {namespace} addr del $address dev eth0 2> /dev/null; done\n\
         echo shot >> {mark}\nexit 0; fi\n\
         [ -z \"$(ip netns pids {namespace})\" ] && exit 2; exit 0\n",
        mode = mode.display(),
        mark = mark.display(),
        addresses = world.service_addresses().join(" "),
    )
}

/// An init script of the old kind, for a storage that runs in the background.
fn init(world: &World, node: &str) -> String {
    let (home, variables) = (world.path(node), variables(world, node).join(" "));
    format!(
        "#!/bin/sh\npid={home}/zeo.pid\nread p < $pid 2> /dev/null\n\
         case $1 in\n\
         start) kill -0 \"$p\" 2> /dev/null && exit 0\n\
         env {variables} setsid {python} -m ZEO.runzeo -C {conf} > {home}/zeo.log 2>&1 < /dev/null &\necho $! > $pid;;\n\
         stop) kill -9 \"$p\" 2> /dev/null; while kill -0 \"$p\" 2> /dev/null; do sleep 0.02; done; rm -f $pid;;\n\
         status) kill -0 \"$p\" 2> /dev/null && exit 0; exit 3;;\nesac\nexit 0\n",
        home = home.display(),
        python = world.environment.python().display(),
        conf = world.path("zeo.conf").display(),
    )
}

fn variables(world: &World, node: &str) -> Vec<String> {
    let data = world.path(node).join("Data.fs");
    let mut variables =
        vec![format!("ZEO_ADDRESS={}:8100", world.family.anywhere()), format!("ZEO_DATA={}", data.display())];
    variables.extend(world.environment.variables().iter().map(|(key, value)| format!("{key}={}", value.display())));
    variables
}

fn common(world: &World, node: &str) -> String {
    let (timing, monitor) = if is_fast() {
        (
            "interval = \"100ms\", warn = \"250ms\", dead = \"500ms\", lease = \"500ms\", margin = \"50ms\"",
            "every = \"100ms\", timeout = \"200ms\", commit_max = \"3s\"",
        )
    } else {
        (
            "interval = \"100ms\", warn = \"600ms\", dead = \"1200ms\", lease = \"1200ms\", margin = \"200ms\"",
            "every = \"200ms\", timeout = \"2s\", commit_max = \"3s\"",
        )
    };
    format!(
        "version = 1\n[admin]\nsocket = \"{socket}\"\n[log]\naccess = \"off\"\n\
         [heartbeat]\nnode = \"{node}\"\ncluster = \"test\"\nmembers = [\"a\", \"b\"]\nwitnesses = [\"w\"]\n\
         key_file = \"{key}\"\nstate_dir = \"{state}\"\ntakeovers = 32\n\
         timing = {{ {timing}, initdead = \"4s\", yield_wait = \"2s\", fence_retry = \"1s\" }}\nmonitor = {{ {monitor} }}\n\
         [heartbeat.at]\n\
         a = {{ links = [\"{at_a}:694\", \"10.77.1.1:694\"], storage = \"{at_a}:8100\" }}\n\
         b = {{ links = [\"{at_b}:694\", \"10.77.1.2:694\"], storage = \"{at_b}:8100\" }}\n\
         w = {{ links = [\"{at_w}:694\"] }}\n",
        socket = world.path(&format!("{node}.sock")).display(),
        key = world.path("key").display(),
        state = world.path(&format!("{node}.state")).display(),
        at_a = world.family.at(1),
        at_b = world.family.at(2),
        at_w = world.family.at(3),
    )
}

fn member(world: &World, node: &str, peer: &str, kept: Kept) -> String {
    let home = world.path(node);
    let timeout = if kept == Kept::Supervised { "1s" } else { "5s" };
    let fence = |node: &str| {
        let program = world.path(&format!("fence-{node}"));
        format!(
            "{{ node = \"{node}\", kind = \"exec\", command = [\"{}\"], timeout = \"{timeout}\" }}",
            program.display()
        )
    };
    let resource = match kept {
        Kept::Supervised => format!(
            "{{ name = \"zeo\", command = [\"{python}\", \"-m\", \"ZEO.runzeo\", \"-C\", \"{conf}\"], options = {options:?}, log = \"{home}/zeo.log\", stop = \"3s\" }}",
            options = variables(world, node),
            home = home.display(),
            python = world.environment.python().display(),
            conf = world.path("zeo.conf").display(),
        ),
        Kept::ByInitScript => format!(
            "{{ name = \"zeo\", kind = \"lsb\", command = [\"{}\"], stop = \"3s\" }}",
            world.path(&format!("init-{node}")).display()
        ),
    };
    // One may be written without a list.
    let addresses = world.service_addresses();
    let ip = if let [one] = addresses.as_slice() { format!("{one:?}") } else { format!("{addresses:?}") };
    let own = format!(
        "data = \"{home}/Data.fs\"\naddress = {{ kind = \"ip\", ip = {ip}, device = \"eth0\" }}\n\
         fence = [{fence}, {other}]\nresource = [{resource}]\n",
        home = home.display(),
        fence = fence(peer),
        other = fence(node),
    );
    common(world, node).replacen("[heartbeat.at]", &format!("{own}[heartbeat.at]"), 1)
}

/// The witness is the edge, and has a set of Zopes for each member.
fn witness(world: &World) -> String {
    let (zopes, service) = (world.family.at(5), world.family.at(super::SERVICE));
    let edge = format!(
        "[server]\nlisten = [\"127.0.0.1:8000\"]\n\
                [site.\"www.example.org\"]\nzope = \"/\"\nupstream = \"zope\"\n\
                [upstream.zope]\npair = true\nactive = \"a\"\nthreads = 4\n\
                check = {{ path = \"/ok\", every = \"500ms\", timeout = \"4s\", rise = 1, fall = 3 }}\n\
                queue = {{ hold = \"60s\", wait = \"30s\" }}\n\
                set = {{ a = [\"{zopes}:9001\"], b = [\"{zopes}:9002\"] }}\n\
                [upstream.watched]\nstorage = [\"{service}:8100\"]\nstorage_commit_max = \"1s\"\n\
                servers = [\"{zopes}:9001\"]\ncheck = {{ kind = \"off\", every = \"500ms\" }}\n\
                [limit.per-client]\nrate = \"off\"\n"
    );
    format!("{}{edge}", common(world, "w"))
}
