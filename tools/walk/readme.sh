#!/bin/sh
# Inside: the commands of the README that need nothing but the package, in its order, from "Pull and run" on.
set -eu

# The registry that short names mean is not reached from here; another stands in for it, as an operator would say so.
mkdir -p /etc/magikrun
printf '[mirrors]\n"docker.io" = ["127.0.0.1:5000"]\n' > /etc/magikrun/config.toml
magikrun config

magikrun doctor || true

rm -rf readme && mkdir readme && cd readme
# Blocks of a shell, up to the section on engines, which are not installed here; the manifest, by the name before its block.
awk '
    /^## MicroVMs/ { exit }
    /^```sh/ { open = 1; next }
    /^```yaml/ { print "cat > pod.yaml <<\047EOF\047"; open = 2; next }
    /^```/ { if (open == 2) print "EOF"; open = 0; next }
    open { print }
' ../README.md > script
# Without passt there is no hostPort; the mistakes come back to that.
sed -i 's/, hostPort: 8080//; /^curl /d' script
sh -eux script
echo "== the README works"
