use super::config::{Facts, spec};
use super::*;
use crate::pod::PodSpec;
use serde_json::json;
use std::collections::BTreeMap;

fn context() -> Context {
    let image = ImageFacts {
        id: "sha256:1".to_owned(),
        entrypoint: vec!["/entry".to_owned()],
        cmd: vec!["cmd".to_owned()],
        env: vec!["FROM=image".to_owned()],
        uid: 100,
        gid: 101,
        groups: vec![102],
        ..ImageFacts::default()
    };
    Context {
        id: "id".to_owned(),
        cgroup_parent: "/magikrun/".to_owned(),
        images: BTreeMap::from([("i".to_owned(), image)]),
        node_name: "node".to_owned(),
        resolv_conf: "nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch example.org\n".to_owned(),
        cpus: 4,
        memory: 8 << 30,
        default_memory: crate::limits::DEFAULT_MEMORY_BYTES,
        grace_seconds: 30,
        ..Context::default()
    }
}

fn planned_for(users: users::Users, spec: &str) -> Result<PodPlan, crate::Error> {
    let manifest = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {spec}\n");
    plan(&PodSpec::from_yaml(manifest)?, &Context { users, ..context() })
}

fn planned(spec: &str) -> Result<PodPlan, crate::Error> {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\nspec: {spec}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{KEY: value, other: x}}\n"
    );
    plan(&PodSpec::from_yaml(manifest)?, &context())
}

/// The plan of a pod whose only container has these fields.
fn container(fields: &str) -> ContainerPlan {
    planned(&format!("{{containers: [{{name: a, image: i, {fields}}}]}}")).unwrap().containers.remove(0)
}

#[test]
fn the_command_follows_from_manifest_and_image() {
    for (fields, args) in [
        ("", vec!["/entry", "cmd"]),
        ("args: [x]", vec!["/entry", "x"]),
        ("command: [c]", vec!["c"]),
        ("command: [c], args: [x]", vec!["c", "x"]),
    ] {
        assert_eq!(container(fields).args, args, "{fields}");
    }
    let e = planned("{containers: [{name: a, image: unknown}]}").unwrap_err();
    assert!(e.message().contains("neither the manifest nor the image"), "{e}");
}

#[test]
fn the_user_is_that_of_the_container_the_pod_or_the_image() {
    for (container, pod, user) in [
        ("{}", "{}", (100, 101, vec![102])),
        ("{}", "{runAsUser: 5}", (5, 0, vec![])),
        (
            "{runAsUser: 6, runAsGroup: 7}",
            "{runAsUser: 5, fsGroup: 9, supplementalGroups: [8]}",
            (6, 7, vec![8, 9]),
        ),
        ("{}", "{supplementalGroupsPolicy: Strict, fsGroup: 9}", (100, 101, vec![9])),
    ] {
        let spec = format!(
            "{{securityContext: {pod}, containers: [{{name: a, image: i, securityContext: {container}}}]}}"
        );
        let c = planned(&spec).unwrap().containers.remove(0);
        assert_eq!((c.uid, c.gid, c.groups), user, "{spec}");
    }
    let root = "{securityContext: {runAsNonRoot: true}, containers: [{name: a, image: root, command: [c]}]}";
    assert!(planned(root).unwrap_err().message().contains("runs as root"));
}

#[test]
fn a_pod_in_a_microvm_needs_what_a_machine_can_be_made_of() {
    let with = |annotations: &str, container: &str, network: Option<Network>| {
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, annotations: {annotations}}}\n\
             spec: {{runtimeClassName: microvm, containers: [{{name: a, image: i, {container}}}]}}\n"
        );
        plan(&PodSpec::from_yaml(manifest)?, &Context { network, ..context() })
    };
    let probe = "readinessProbe: {tcpSocket: {port: 81}}, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]";
    let vm = with("{krun.cpus: '2', other: x}", probe, Some(Network::Pasta)).unwrap().vm.unwrap();
    let annotations = [("krun.cpus", "2"), ("org.magikrun.krun.ports", "53/udp,80/tcp,81/tcp")];
    assert_eq!(vm.annotations, annotations.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
    let vm = with("{krun.ram_mib: '300'}", "", None).unwrap().vm.unwrap();
    assert_eq!(vm.annotations["org.magikrun.krun.ports"], "none");
    assert_eq!(vm.resources["memory"]["limit"], (300 + 64) << 20);
    for (annotations, container, network, expected) in [
        ("{}", probe, None, "needs one (--network"),
        ("{}", "", Some(Network::Host), "the host's network"),
        ("{krun.cpus: many}", "", None, "cannot size the microVM: annotations: krun.cpus"),
        ("{krun.nested_virt: '1'}", "", None, "krun.nested_virt"),
    ] {
        let e = with(annotations, container, network).unwrap_err();
        assert!(e.message().contains(expected), "{e}");
    }
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {runtimeClassName: microvm, containers: [{name: a, image: w}]}";
    let mut context = context();
    context.images.insert("w".to_owned(), ImageFacts { wasm: true, ..ImageFacts::default() });
    let e = plan(&PodSpec::from_yaml(manifest).unwrap(), &context).unwrap_err();
    assert!(e.message().contains("spec.containers[0]: image: a WebAssembly module"), "{e}");
}

#[test]
fn capabilities_are_added_and_dropped() {
    let names =
        |fields: &str| container(&format!("securityContext: {{capabilities: {fields}}}")).capabilities;
    assert_eq!(names("{}").len(), 14);
    assert_eq!(names("{drop: [ALL], add: [NET_ADMIN]}"), ["CAP_NET_ADMIN"]);
    assert_eq!(names("{add: [ALL], drop: [SYS_ADMIN]}").len(), 40);
    assert!(!names("{drop: [CAP_KILL]}").contains(&"CAP_KILL".to_owned()));
    assert_eq!(container("securityContext: {privileged: true}").capabilities.len(), 41);
}

#[test]
fn resources_become_settings_of_cgroups() {
    for (resources, settings) in [
        ("{}", json!({"memory": {"limit": 268_435_456}})),
        (
            "{limits: {cpu: 500m, memory: 64Mi}}",
            json!({"memory": {"limit": 67_108_864}, "cpu": {"quota": 50_000, "period": 100_000, "shares": 512}}),
        ),
        ("{requests: {cpu: 1m}}", json!({"memory": {"limit": 268_435_456}, "cpu": {"shares": 2}})),
        (
            "{limits: {memory: 64Mi}, requests: {memory: 32Mi}}",
            json!({"memory": {"limit": 67_108_864, "reservation": 33_554_432}}),
        ),
        (
            "{requests: {memory: 1Gi}}",
            json!({"memory": {"limit": 1_073_741_824, "reservation": 1_073_741_824}}),
        ),
        (
            "{limits: {cpu: 1m, hugepages-2Mi: 4Mi}}",
            json!({"memory": {"limit": 268_435_456}, "cpu": {"quota": 1000, "period": 100_000, "shares": 2},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}),
        ),
    ] {
        assert_eq!(container(&format!("resources: {resources}")).resources, settings, "{resources}");
    }
    assert_eq!(planned("{containers: [{name: a, image: i}]}").unwrap().resources, json!({}));
}

#[test]
fn variables_come_from_everywhere_and_are_replaced_in_order() {
    let c = container(
        "envFrom: [{prefix: P_, configMapRef: {name: m}}], command: [echo, $(A)-$(C)-$(NO)-$$(A)], env: [
            {name: A, value: a}, {name: B, value: '$(A)b'}, {name: C, value: '$(LATER)'}, {name: LATER, value: x},
            {name: KEY, valueFrom: {configMapKeyRef: {name: m, key: KEY}}},
            {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}},
            {name: LABEL, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}},
            {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}},
            {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}},
            {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}]",
    );
    let facts = Facts { pod_ip: "10.0.0.1".to_owned(), ..Facts::default() };
    let env: BTreeMap<String, String> = config::environment(&c, &facts).into_iter().collect();
    for (name, value) in [
        ("FROM", "image"),
        ("P_KEY", "value"),
        ("A", "a"),
        ("B", "ab"),
        ("C", "$(LATER)"),
        ("KEY", "value"),
        ("NAME", "web"),
        ("LABEL", "web"),
        ("IP", "10.0.0.1"),
        ("CPU", "4"),
        ("MEM", "8192"),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
    }
    let plan = planned("{containers: [{name: a, image: i}]}").unwrap();
    let spec = spec(&plan, &c, &facts, "rootfs");
    assert_eq!(spec["process"]["args"], json!(["echo", "a-$(LATER)-$(NO)-$(A)"]));
}

#[test]
fn the_network_follows_from_the_manifest_unless_one_is_asked_for() {
    let with = |spec: &str, asked: Option<Network>| {
        let pod = PodSpec::from_yaml(format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: a, image: i, {spec}}}]}}"
        ))
        .unwrap();
        plan(&pod, &Context { network: asked, ..context() }).map(|plan| plan.network)
    };
    let port = "ports: [{containerPort: 80, hostPort: 8080}]";
    assert_eq!(with("", None).unwrap(), Network::None);
    assert_eq!(with(port, None).unwrap(), Network::Pasta);
    assert_eq!(with("", Some(Network::Pasta)).unwrap(), Network::Pasta);
    assert!(with(port, Some(Network::None)).is_err());
    assert!(with(port, Some(Network::Host)).is_err());
    assert_eq!(
        with("ports: [{containerPort: 80, hostPort: 80}]", Some(Network::Host)).unwrap(),
        Network::Host
    );
}

#[test]
fn the_resolver_is_that_of_the_host_without_what_cannot_be_reached() {
    let conf = |spec: &str| {
        planned(&format!("{{{spec}, containers: [{{name: a, image: i}}]}}")).unwrap().resolv_conf
    };
    assert_eq!(
        conf("hostNetwork: true"),
        "nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch example.org\n"
    );
    assert_eq!(
        conf(
            "dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.9], searches: [a.b], options: [{name: ndots, value: '2'}]}"
        ),
        "nameserver 192.0.2.9\nsearch a.b\noptions ndots:2\n"
    );
}

#[test]
fn init_containers_and_sidecars_come_before_the_others() {
    let plan = planned(
        "{initContainers: [{name: first, image: i}, {name: side, image: i, restartPolicy: Always}],
          containers: [{name: app, image: i}], terminationGracePeriodSeconds: 3, hostname: h}",
    )
    .unwrap();
    let roles: Vec<_> = plan.containers.iter().map(|c| (c.name.as_str(), c.role)).collect();
    assert_eq!(roles, [("first", Role::Init), ("side", Role::Sidecar), ("app", Role::App)]);
    assert_eq!(
        (plan.grace_seconds, plan.hostname.as_str(), plan.cgroup.path().as_str()),
        (3, "h", "/magikrun/id")
    );
    assert_eq!(planned("{containers: [{name: a, image: i}]}").unwrap().grace_seconds, 30);
}

#[test]
fn volumes_are_planned_with_their_files() {
    let plan = planned(
        "{containers: [{name: a, image: i}], volumes: [{name: e}, {name: mem, emptyDir: {medium: Memory, sizeLimit: 1Mi}},
          {name: c, configMap: {name: m, items: [{key: KEY, path: d/k, mode: 256}]}},
          {name: p, persistentVolumeClaim: {claimName: data}},
          {name: d, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}]}",
    )
    .unwrap();
    let kinds: Vec<_> = plan.volumes.into_iter().map(|volume| volume.source).collect();
    let file = |path: &str, mode, content: &str| {
        VolumeKind::Files(vec![FilePlan {
            path: path.to_owned(),
            mode,
            content: content.as_bytes().to_vec(),
        }])
    };
    assert_eq!(
        kinds,
        [
            VolumeKind::Directory { mode: 0o777 },
            VolumeKind::Memory { size: Some(1 << 20), mode: 0o777 },
            file("d/k", 0o400, "value"),
            VolumeKind::Claim { name: "default_data".to_owned(), read_only: false },
            file("labels", 0o644, "app=\"web\""),
        ]
    );
}

#[test]
fn a_configuration_joins_the_namespaces_and_mounts_the_volumes_parents_first() {
    let plan = planned(
        "{containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /d/e, subPath: s}, {name: v, mountPath: /d, readOnly: true}]}],
          volumes: [{name: v}]}",
    )
    .unwrap();
    let sources = BTreeMap::from([
        (("v".to_owned(), "s".to_owned(), false), "/src/s".to_owned()),
        (("v".to_owned(), String::new(), false), "/src".to_owned()),
    ]);
    let facts = Facts {
        namespaces: vec![("network", "/proc/1/ns/net".to_owned())],
        etc: "/etc-of-pod".to_owned(),
        sources,
        ..Facts::default()
    };
    let spec = spec(&plan, &plan.containers[0], &facts, "rootfs");
    let mounts = spec["mounts"].as_array().unwrap();
    let last: Vec<_> =
        mounts[mounts.len() - 2..].iter().map(|m| (&m["destination"], &m["options"])).collect();
    assert_eq!(last[0], (&json!("/d"), &json!(["rbind", "rprivate", "ro"])));
    assert_eq!(last[1], (&json!("/d/e"), &json!(["rbind", "rprivate", "rw"])));
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({"type": "network", "path": "/proc/1/ns/net"})));
    assert!(namespaces.contains(&json!({"type": "pid"})));
    assert_eq!(spec["linux"]["cgroupsPath"], "/magikrun/id/a");
    let parsed = crate::runtime::spec::parse(spec.to_string().as_bytes(), "config").unwrap();
    crate::runtime::validate::validate(&parsed, crate::runtime::kernel_security::KernelSecurity::probe)
        .unwrap();
}

#[test]
fn a_user_without_privileges_has_ids_of_its_own_and_no_limits_that_nobody_asked_for() {
    let of_user = |ids, spec: &str| planned_for(users::Users::OfUser { ids }, spec);
    let plain =
        "{containers: [{name: a, image: root, command: [c], resources: {requests: {cpu: 1, memory: 1Mi}}}]}";
    assert_eq!(of_user(1, plain).unwrap().containers[0].resources, json!({}));
    let image_user = "{containers: [{name: a, image: i}]}";
    let e = of_user(1, image_user).unwrap_err();
    assert!(e.message().contains("id 100 is not among the 1 that the pod can have"), "{e}");
    assert_eq!(of_user(65537, image_user).unwrap().containers[0].groups, [102]);
    let group = "{securityContext: {fsGroup: 0}, containers: [{name: a, image: root, command: [c]}]}";
    assert!(of_user(1, group).is_err(), "one id has no further groups");
    let host_pid = "{hostPID: true, containers: [{name: a, image: i}]}";
    assert!(of_user(65537, host_pid).unwrap_err().message().contains("spec.hostPID: needs root"));
}

#[test]
fn a_pod_with_ids_of_its_own_joins_their_namespace_and_has_volumes_of_the_host_mapped() {
    let plan = planned(
        "{hostUsers: false, containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /v}, {name: h, mountPath: /h}]}],
          volumes: [{name: v}, {name: h, hostPath: {path: /h}}]}",
    )
    .unwrap();
    assert_eq!(plan.users, users::Users::Own);
    let key = |name: &str| (name.to_owned(), String::new(), false);
    let facts = Facts {
        ids: Some(users::IdRange { first: 700_000 }),
        sources: BTreeMap::from([(key("v"), "/src/v".to_owned()), (key("h"), "/h".to_owned())]),
        ..Facts::default()
    };
    let spec = spec(&plan, &plan.containers[0], &facts, "rootfs");
    let mount = |target: &str| {
        spec["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == target).unwrap().clone()
    };
    assert_eq!(mount("/h")["uidMappings"], json!([{"containerID": 0, "hostID": 700_000, "size": 65536}]));
    assert_eq!(mount("/v")["uidMappings"], json!(null), "what is made for the pod belongs to it");
}

#[test]
fn mounts_of_a_container_reach_the_host_only_where_that_is_asked_for() {
    let plan = planned(
        "{containers: [{name: a, image: i, securityContext: {privileged: true}, volumeMounts: [
            {name: h, mountPath: /a, mountPropagation: Bidirectional}, {name: h, mountPath: /b, mountPropagation: HostToContainer}]}],
          volumes: [{name: h, hostPath: {path: /h}}]}",
    )
    .unwrap();
    let key = |shared| ("h".to_owned(), String::new(), shared);
    let sources = BTreeMap::from([(key(true), "/shared".to_owned()), (key(false), "/h".to_owned())]);
    let spec = spec(&plan, &plan.containers[0], &Facts { sources, ..Facts::default() }, "rootfs");
    let mounts = spec["mounts"].as_array().unwrap();
    let last: Vec<_> = mounts[mounts.len() - 2..].iter().map(|m| (&m["source"], &m["options"][1])).collect();
    assert_eq!(last, [(&json!("/shared"), &json!("rshared")), (&json!("/h"), &json!("rslave"))]);
    assert_eq!(spec["linux"]["rootfsPropagation"], "rshared");
}
