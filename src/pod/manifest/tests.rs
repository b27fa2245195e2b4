use super::*;

fn pod(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {spec}\n")
}

fn with_container(fields: &str) -> String {
    pod(&format!("{{containers: [{{name: a, image: i, {fields}}}], volumes: [{{name: v}}]}}"))
}

fn messages(manifest: &str) -> Vec<String> {
    let (_, findings) = examine(manifest.as_bytes()).unwrap();
    findings.all.iter().map(ToString::to_string).collect()
}

#[test]
fn a_pod_is_read_from_yaml_and_from_json() {
    let yaml = "
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  terminationGracePeriodSeconds: 5
  initContainers:
  - {name: log, image: busybox, restartPolicy: Always}
  containers:
  - name: app
    image: busybox
    command: [sh, -c, 'sleep 1']
    ports: [{containerPort: 80, hostPort: 8080}]
    livenessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - name: data
  - name: secret
    secret: {secretName: s, defaultMode: 0400}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {password: aHVudGVy}
stringData: {user: bob}
";
    let pod = PodSpec::from_yaml(yaml).unwrap();
    assert_eq!(pod.name(), "web");
    assert_eq!(pod.spec.containers[0].ports[0].host_port, Some(8080));
    assert_eq!(pod.spec.volumes[0].source, None);
    let Some(types::VolumeSource::Secret(secret)) = &pod.spec.volumes[1].source else { panic!() };
    assert_eq!(secret.default_mode, Some(0o400));
    assert_eq!(pod.secrets["s"].values["password"], b"hunter");
    assert_eq!(pod.secrets["s"].values["user"], b"bob");
    let json = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "a", "image": "i"}]}}"#;
    assert_eq!(PodSpec::from_yaml(json).unwrap().spec.containers[0].image, "i");
}

/// Holds what is found in manifests against what must be.
fn assert_found(all: &[(String, &str)]) {
    for (manifest, expected) in all {
        let found = messages(manifest);
        assert!(found.iter().any(|m| m.contains(expected)), "{expected}\n{found:?}");
        assert!(PodSpec::all_from_yaml(manifest).unwrap_err().message().contains(expected));
    }
}

#[test]
fn every_fault_of_a_container_is_named_with_its_place() {
    assert_found(&[
        (pod("{containers: []}"), "Pod/web: spec.containers: must not be empty"),
        (with_container("image2: x"), "Pod/web: spec.containers[0].image2: unknown field"),
        (with_container("tty: 1"), "Pod/web: spec.containers[0].tty: invalid type"),
        (
            pod("{containers: [{name: a, image: i}], initContainers: [{name: b, image: i, stdin: true}]}"),
            "Pod/web: spec.initContainers[0].stdin: not supported: nobody can attach",
        ),
        (with_container("command: sh"), "Pod/web: spec.containers[0].command: invalid type: string"),
        (
            with_container("ports: [{containerPort: 70000}]"),
            "spec.containers[0].ports[0].containerPort: invalid value",
        ),
        (with_container("env: [{name: A, value: 5}]"), "spec.containers[0].env[0].value: invalid type"),
        (with_container("env: [{name: A, valueFrom: {}}]"), "env[0].valueFrom: needs one of its fields"),
        (
            with_container("env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]"),
            "spec.containers[0].env[0].valueFrom: there is no key 'k' in a secret 's' of the manifest",
        ),
        (
            with_container("livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}"),
            "livenessProbe: may have only one of exec, tcpSocket",
        ),
        (with_container("livenessProbe: {tcpSocket: {port: web}}"), "the container has no port 'web'"),
        (with_container("volumeMounts: [{name: w, mountPath: /x}]"), "there is no volume 'w'"),
        (
            with_container("volumeMounts: [{name: v, mountPath: /x, subPath: ../y}]"),
            "volumeMounts[0].subPath: '../y' must be a relative path without '..'",
        ),
        (
            with_container("resources: {limits: {memory: 9Gi}}"),
            "resources.limits.memory: is more than 8589934592",
        ),
        (with_container("resources: {limits: {nvidia.com/gpu: 1}}"), "limits.nvidia.com/gpu: not supported"),
        (
            with_container("resources: {limits: {cpu: 1}, requests: {cpu: 1500m}}"),
            "requests.cpu: is more than the limit",
        ),
        (
            with_container("resources: {requests: {hugepages-2Mi: 2Mi}}"),
            "requests.hugepages-2Mi: must be the same as the limit",
        ),
        (with_container("securityContext: {capabilities: {add: [FLY]}}"), "unknown capability 'FLY'"),
        (with_container("securityContext: {runAsUser: 0, runAsNonRoot: true}"), "runAsUser: is 0"),
        (
            with_container("securityContext: {runAsGroup: 4294967295}"),
            "runAsGroup: must be between 0 and 2147483647",
        ),
    ]);
}

#[test]
fn every_fault_of_a_pod_is_named_with_its_place() {
    assert_found(&[
        (pod("{containers: [{name: A_b, image: i}]}"), "spec.containers[0].name: 'A_b' must be"),
        (
            pod("{containers: [{name: a, image: i}, {name: a, image: i}]}"),
            "spec.containers[1].name: 'a' occurs twice",
        ),
        (
            pod(
                "{containers: [{name: a, image: i, ports: [{containerPort: 1, hostPort: 9}, {containerPort: 2, hostPort: 9}]}]}",
            ),
            "ports[1].hostPort: port 9 of the host is asked for twice",
        ),
        (
            pod(
                "{initContainers: [{name: a, image: i, startupProbe: {exec: {command: [a]}}}], containers: [{name: b, image: i}]}",
            ),
            "spec.initContainers[0].startupProbe: may only be set for a sidecar",
        ),
        (
            pod("{containers: [{name: a, image: i}], hostUsers: false, hostIPC: true}"),
            "spec.hostIPC: cannot be true when hostUsers is false",
        ),
        (
            pod(
                "{containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /x, mountPropagation: Bidirectional}]}],
                  volumes: [{name: v, hostPath: {path: /x}}]}",
            ),
            "mountPropagation: Bidirectional is for privileged containers only",
        ),
        (
            pod(
                "{containers: [{name: a, image: i, securityContext: {privileged: true},
                  volumeMounts: [{name: v, mountPath: /x, mountPropagation: Bidirectional}]}], volumes: [{name: v}]}",
            ),
            "mountPropagation: Bidirectional is for hostPath volumes only",
        ),
        (
            pod("{containers: [{name: a, image: i}], runtimeClassName: gvisor}"),
            "'gvisor' must be one of native",
        ),
        (
            pod("{containers: [{name: a, image: i}], volumes: [{name: v, nfs: {server: s, path: /}}]}"),
            "spec.volumes[0].nfs: not supported: there are no storage drivers",
        ),
        (
            pod("{containers: [{name: a, image: i}], volumes: [{name: v, hostPath: {path: a}}]}"),
            "hostPath.path: must be an absolute path",
        ),
        (
            pod(
                "{containers: [{name: a, image: i}], securityContext: {sysctls: [{name: vm.swappiness, value: '1'}]}}",
            ),
            "'vm.swappiness' has no value of its own in a pod",
        ),
        ("apiVersion: apps/v1\nkind: Deployment\n".to_owned(), "'apps/v1 Deployment' is not supported"),
        ("kind: Pod\n".to_owned(), "document 1: apiVersion: must be set"),
        (String::new(), "the manifest holds no pod"),
    ]);
}

#[test]
fn a_pod_in_a_microvm_has_no_part_of_the_hosts_kernel() {
    let of = |container: &str, more: &str| {
        pod(&format!("{{runtimeClassName: microvm, containers: [{{name: a, image: i{container}}}]{more}}}"))
    };
    let volume = |mount: &str, host: &str| {
        of(
            &format!(", volumeMounts: [{{name: v, {mount}}}]"),
            &format!(", volumes: [{{name: v, hostPath: {{{host}}}}}]"),
        )
    };
    for (manifest, path) in [
        (of("", ", hostNetwork: true"), "spec.hostNetwork"),
        (of("", ", hostPID: true"), "spec.hostPID"),
        (of("", ", hostIPC: true"), "spec.hostIPC"),
        (of("", ", shareProcessNamespace: true"), "spec.shareProcessNamespace"),
        (of(", securityContext: {privileged: true}", ""), "spec.containers[0].securityContext.privileged"),
        (
            of("", ", securityContext: {appArmorProfile: {type: Localhost, localhostProfile: p}}"),
            "spec.securityContext.appArmorProfile",
        ),
        (of("", ", securityContext: {seLinuxOptions: {level: s0}}"), "spec.securityContext.seLinuxOptions"),
        (
            of(", securityContext: {seccompProfile: {type: Localhost, localhostProfile: p}}", ""),
            "spec.containers[0].securityContext.seccompProfile",
        ),
        (
            of(", resources: {limits: {hugepages-2Mi: 2Mi}}", ""),
            "spec.containers[0].resources.limits.hugepages-2Mi",
        ),
        (volume("mountPath: /dev/x", "path: /srv"), "spec.containers[0].volumeMounts[0].mountPath"),
        (
            volume("mountPath: /x, mountPropagation: HostToContainer", "path: /srv"),
            "spec.containers[0].volumeMounts[0].mountPropagation",
        ),
        (volume("mountPath: /x", "path: /proc/sys"), "spec.volumes[0].hostPath.path"),
        (volume("mountPath: /x", "path: /run/x.sock, type: Socket"), "spec.volumes[0].hostPath.type"),
    ] {
        let expected = format!("Pod/web: {path}: not supported in a microVM");
        assert_eq!(messages(&manifest), std::slice::from_ref(&expected));
        assert!(PodSpec::all_from_yaml(&manifest).unwrap_err().message().contains(&expected));
        let native = manifest.replace("microvm", "native");
        assert!(!messages(&native).iter().any(|message| message.contains("microVM")));
    }
    let warned = of(", securityContext: {seccompProfile: {type: RuntimeDefault}}", "");
    let found = messages(&warned);
    assert!(found.len() == 1 && found[0].contains("has no effect in a microVM"), "{found:?}");
    PodSpec::from_yaml(&warned).unwrap();
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let manifest =
        pod("{restartPolicy: Always, nodeSelector: {a: b}, containers: [{name: a, image: i, tty: false}]}");
    let found = messages(&manifest);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("Pod/web: spec.nodeSelector: has no effect"), "{found:?}");
    assert_eq!(PodSpec::from_yaml(&manifest).unwrap().warnings.len(), 1);
}

#[test]
fn all_faults_are_told_at_once() {
    let found = messages(&with_container("image3: x, volumeMounts: [{name: w, mountPath: x}]"));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn a_bomb_of_aliases_and_a_doubled_key_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..9 {
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    assert!(examine(bomb.as_bytes()).is_err());
    assert!(examine(b"kind: Pod\nkind: Pod\n").is_err());
    assert!(examine(b"\xff").is_err());
}

#[test]
fn several_pods_are_read_and_a_name_may_not_occur_twice() {
    let one = pod("{containers: [{name: a, image: i}]}");
    let two = one.replace("web", "db");
    assert_eq!(PodSpec::all_from_yaml(format!("{one}---\n{two}")).unwrap().len(), 2);
    assert!(PodSpec::from_yaml(format!("{one}---\n{two}")).unwrap_err().message().contains("holds 2 pods"));
    let twice = PodSpec::all_from_yaml(format!("{one}---\n{one}")).unwrap_err();
    assert!(twice.message().contains("another pod of the manifest has this name"), "{twice}");
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: a, image: i}]}}\n";
    assert_eq!(PodSpec::from_yaml(list).unwrap().name(), "x");
}
