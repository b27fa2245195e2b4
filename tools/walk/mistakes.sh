#!/bin/sh
# Inside: mistakes, and what must be said about each: what could not be done, to what, why, and what helps.
set -u

failed=0
# expect STATUS WORDS COMMAND...: the status, and what the message must have in it, in this order.
expect() {
    status=$1 words=$2
    shift 2
    said=$("$@" 2>&1 < /dev/null)
    got=$?
    printf '$ %s\n%s\n\n' "$*" "$said"
    # shellcheck disable=SC2254 # a pattern
    case $said in *$words*) ;; *) got="$got, and not '$words'" ;; esac
    [ "$got" = "$status" ] || { echo "FAILED: expected $status: got $got"; failed=1; }
}

cd "$(mktemp -d)" || exit 1
chmod 755 .
magikrun bundle busybox:1.36 good sleep 600 > /dev/null

# A bundle that is not there, and a directory that is none.
expect 1 "nowhere: no such file" magikrun run --bundle nowhere one
expect 1 "--image" magikrun run busybox echo hello
expect 1 "config.json not found*magikrun run --image" magikrun run busybox
expect 1 "config.json not found*magikrun spec" magikrun create one

# A name that is taken, one that is not there, one that is none.
magikrun create --bundle good taken
expect 1 "container with given ID already exists" magikrun create --bundle good taken
expect 1 "container does not exist" magikrun start nobody
expect 1 "'a/b'" magikrun create --bundle good a/b
expect 255 "container does not exist" magikrun exec nobody true
magikrun start taken
expect 1 "running" magikrun start taken
expect 1 "running*--force" magikrun delete taken
expect 255 "nosuch" magikrun exec taken nosuch

# Somebody who is not root.
expect 1 "permission denied*--root" setpriv --reuid 65534 --clear-groups magikrun create --bundle good mine
expect 1 "state root '/run/magikrun': permission denied*XDG_RUNTIME_DIR" setpriv --reuid 65534 --clear-groups magikrun list
magikrun delete --force taken

# Images: one that the registry does not have, a registry that is not there, a name that is none, a program that is not in it.
expect 1 "nosuch:1*manifest unknown" magikrun image pull localhost:5000/nosuch:1
expect 1 "localhost:5999*connection refused*check the port" magikrun image pull localhost:5999/app
expect 1 "invalid image reference*lower-case" magikrun run --image BusyBox one
expect 1 "nosuchprogram" magikrun run --image busybox:1.36 one nosuchprogram
expect 1 "linux/arm64*exec format error" magikrun run --image other-machine one

# Manifests: YAML that is none, a field that is misspelt, a port without pasta, an image that is nowhere.
printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: web\n' > broken.yaml
expect 1 "line" magikrun pod run broken.yaml
pod() {
    printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: "busybox:1.36", command: [sleep, "60"], %s}]}\n' "$1"
}
pod 'imagePulPolicy: Never' > typo.yaml
expect 1 "imagePulPolicy*imagePullPolicy" magikrun pod run typo.yaml
pod 'ports: [{containerPort: 80, hostPort: 8080}]' > port.yaml
expect 1 "pasta*passt" magikrun pod run port.yaml
expect 1 "'nopod' does not exist" magikrun pod logs nopod
pod 'stdin: false' > good.yaml
magikrun pod run good.yaml > /dev/null
expect 1 "exists already" magikrun pod run good.yaml
magikrun pod delete --force web

# The command line.
expect 1 "start" magikrun strat one
expect 1 "image pull" magikrun pull busybox
expect 1 "--memory*64x" magikrun run --image busybox:1.36 --memory 64x one
expect 1 "<DIR>" magikrun bundle busybox:1.36

# A configuration with a fault.
printf '[limits]\nmax_container = 5\n' > wrong.toml
expect 1 "line 2: limits.max_container: unknown field" env MAGIKRUN_CONFIG=wrong.toml magikrun list

# A host that is not as it should be: no cgroups to write to, none at all, no /proc.
expect 1 "cgroup*read-only" unshare --mount sh -c 'mount -o remount,ro,bind /sys/fs/cgroup; for m in /sys/fs/cgroup/*; do mount -o remount,ro,bind $m 2>/dev/null; done; magikrun run --bundle good one'
expect 1 "cgroup" unshare --mount sh -c 'umount -R /sys/fs/cgroup; magikrun run --bundle good one'

[ "$failed" -eq 0 ] && echo "== every mistake is answered"
exit "$failed"
