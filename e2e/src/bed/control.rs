//! The control plane: etcd, API server, controller manager, scheduler, DNS, and a kube-proxy for programs beside it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::process::{output, wait};
use super::{Bed, CONTROL_ADDRESS};

const CERTIFICATES: &str = r#"
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -subj /CN=test-ca -days 3650 -out ca.crt
openssl ecparam -name prime256v1 -genkey -noout -out api.key
openssl req -new -key api.key -subj /CN=kube-apiserver -out api.csr
echo "subjectAltName=IP:127.0.0.1,IP:10.89.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local" > api.ext
openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out api.crt -extfile api.ext
openssl genrsa -traditional -out sa.key 2048
openssl rsa -in sa.key -pubout -out sa.pub
od -An -tx1 -N16 /dev/urandom | tr -d ' \n' > token
base64 -w0 ca.crt > ca.base64
"#;

impl Bed {
    pub(super) fn certificates(&self) -> Result<()> {
        output(Command::new("sh").args(["-e", "-c", CERTIFICATES]).current_dir(&self.run))?;
        let read = |name: &str| std::fs::read_to_string(self.run.join(name)).context(name.to_owned());
        let (token, ca) = (read("token")?, read("ca.base64")?);
        std::fs::write(self.run.join("tokens.csv"), format!("{token},admin,admin,system:masters\n"))?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://{CONTROL_ADDRESS}:6443"), "certificate-authority-data": ca }}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(self.kubeconfig(), config.to_string())?;
        Ok(())
    }

    pub(super) fn control_plane(&self) -> Result<()> {
        let file = |name: &str| self.run.join(name).display().to_string();
        let kubeconfig = self.kubeconfig().display().to_string();
        #[rustfmt::skip]
        self.start("kc", "etcd", &["etcd",
            "--data-dir", &file("etcd"), "--unsafe-no-fsync", "--log-level", "warn",
            "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
            "--listen-peer-urls", "http://127.0.0.1:2380",
        ])?;
        #[rustfmt::skip]
        self.start("kc", "apiserver", &["kube-apiserver",
            "--etcd-servers", "http://127.0.0.1:2379", "--advertise-address", CONTROL_ADDRESS, "--secure-port", "6443",
            "--service-cluster-ip-range", "10.96.0.0/16", "--allow-privileged", "--authorization-mode", "RBAC",
            "--tls-cert-file", &file("api.crt"), "--tls-private-key-file", &file("api.key"),
            "--client-ca-file", &file("ca.crt"), "--token-auth-file", &file("tokens.csv"), "--cert-dir", &file("apicerts"),
            "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
            "--service-account-key-file", &file("sa.pub"), "--service-account-signing-key-file", &file("sa.key"),
            "--kubelet-preferred-address-types", "InternalIP",
            "--default-not-ready-toleration-seconds", "10", "--default-unreachable-toleration-seconds", "10",
        ])?;
        wait("the API server", Duration::from_secs(60), Duration::from_millis(200), || {
            self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
        })?;
        #[rustfmt::skip]
        self.start("kc", "controller-manager", &["kube-controller-manager",
            "--kubeconfig", &kubeconfig, "--leader-elect=false", "--root-ca-file", &file("ca.crt"),
            "--service-account-private-key-file", &file("sa.key"), "--allocate-node-cidrs=false",
            "--node-monitor-period", "2s", "--node-monitor-grace-period", "16s", "--cert-dir", &file("kcmcerts"),
        ])?;
        #[rustfmt::skip]
        self.start("kc", "scheduler", &["kube-scheduler",
            "--kubeconfig", &kubeconfig, "--leader-elect=false", "--cert-dir", &file("schedcerts"),
        ])?;
        let corefile = format!(
            ".:53 {{\n  errors\n  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {kubeconfig}\n    \
             pods insecure\n    ttl 1\n  }}\n}}\n"
        );
        std::fs::write(self.run.join("Corefile"), corefile)?;
        self.start("kc", "coredns", &["coredns", "-conf", &file("Corefile")])?;
        self.proxy_beside_the_control_plane()
    }

    /// kube-proxy waits 30 s for a Node of its own name. The control plane is no node, so it gets one for a moment.
    fn proxy_beside_the_control_plane(&self) -> Result<()> {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "kc"}, "spec": {"unschedulable": true},
            "status": {"addresses": [{"type": "InternalIP", "address": CONTROL_ADDRESS}]},
        });
        let file = self.run.join("kc-node.json");
        std::fs::write(&file, node.to_string())?;
        self.kubectl(&["create", "-f", &file.display().to_string()])?;
        let config = self.run.join("proxy.json");
        std::fs::write(&config, self.proxy_config(CONTROL_ADDRESS))?;
        let args = ["kube-proxy", "--config", &config.display().to_string(), "--hostname-override", "kc"];
        self.start("kc", "proxy-kc", &args)?;
        let log = self.logs().join("proxy-kc.log");
        wait("kube-proxy", Duration::from_secs(60), Duration::from_millis(100), || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            said.lines().any(|line| line.contains("Caches are synced") && line.contains("service config"))
        })?;
        self.kubectl(&["delete", "node", "kc", "--wait=false"])?;
        Ok(())
    }

    pub(super) fn proxy_config(&self, address: &str) -> String {
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "bindAddress": address,
            "clientConnection": {"kubeconfig": self.kubeconfig()},
            "clusterCIDR": "10.88.0.0/16",
            "detectLocalMode": "ClusterCIDR",
            // The machine's limits are not ours to change.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "iptables": {"localhostNodePorts": true, "minSyncPeriod": "0s", "syncPeriod": "30s"},
            "metricsBindAddress": "127.0.0.1:10249",
            "healthzBindAddress": "127.0.0.1:10256",
        })
        .to_string()
    }
}
