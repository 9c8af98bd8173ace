//! The network: a bridge in the control plane's namespace, and a wire from it to each node.

use anyhow::Result;

use super::process::run;
use super::{Bed, ip};

impl Bed {
    pub(super) fn network(&self) -> Result<()> {
        ip("netns add kc")?;
        ip("-n kc link set lo up")?;
        ip("-n kc link add kbr0 type bridge")?;
        ip("-n kc addr add 10.89.0.1/24 dev kbr0")?;
        ip("-n kc link set kbr0 up")?;
        // A route must be there before the rules of kube-proxy see the packet.
        ip("-n kc route add 10.96.0.0/16 dev kbr0")?;
        set("kc", "net/ipv4/ip_forward")?;
        set("kc", "net/ipv4/conf/all/route_localnet")?;
        for n in 1..=self.nodes {
            ip(&format!("netns add kn{n}"))?;
            ip(&format!("-n kc link add kn{n} type veth peer name eth0 netns kn{n}"))?;
            ip(&format!("-n kc link set kn{n} master kbr0 up"))?;
            ip(&format!("-n kn{n} link set lo up"))?;
            ip(&format!("-n kn{n} addr add 10.89.0.1{n}/24 dev eth0"))?;
            ip(&format!("-n kn{n} link set eth0 up"))?;
            ip(&format!("-n kn{n} route add default via 10.89.0.1"))?;
            ip(&format!("-n kc route add 10.88.{n}.0/24 via 10.89.0.1{n}"))?;
            set(&format!("kn{n}"), "net/ipv4/ip_forward")?;
        }
        for n in 1..=self.nodes {
            for other in (1..=self.nodes).filter(|other| *other != n) {
                ip(&format!("-n kn{n} route add 10.88.{other}.0/24 via 10.89.0.1{other}"))?;
            }
        }
        Ok(())
    }
}

/// Sets a switch of a network namespace. `ip netns exec` would mount another /sys; nsenter leaves it as it is.
fn set(namespace: &str, switch: &str) -> Result<()> {
    let net = format!("--net=/run/netns/{namespace}");
    run("nsenter", &[&net, "sh", "-c", &format!("echo 1 > /proc/sys/{switch}")]).map(|_| ())
}
