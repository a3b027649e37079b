#!/bin/bash
# Records what one real Nix prints, as the samples in tests/data/VERSION that the parser's unit tests read.
# usage: record-samples.sh NIX DEST      (offline; builds a few tiny derivations in /nix/store)
set -euo pipefail
nix=$(realpath "$1") dest=$(realpath -m "$2")
work=$(mktemp -d /tmp/mvm-nix-samples.XXXXXX)
server=
# the only store objects made here have the marker in their name
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
export HOME=$work/home XDG_CACHE_HOME=$work/home/.cache TMPDIR=/tmp
mkdir -p "$HOME" "$dest"
export NIX_CONFIG="experimental-features = nix-command flakes
build-users-group =
substituters =
flake-registry =
sandbox = false
warn-dirty = false
connect-timeout = 2
download-attempts = 1"

salt=$(date +%s%N)
flake=$work/flake
mkdir "$flake"
cat > "$flake/flake.nix" <<N
{
  outputs =
    { self }:
    let
      run =
        name: env: script:
        derivation (
          {
            inherit name;
            system = "x86_64-linux";
            builder = "/bin/sh";
            PATH = "/usr/bin:/bin";
            salt = "$salt";
            args = [ "-c" (script + "\nexit \$?") ];
          }
          // env
        );
      dep = run "mvm-sample-dep" { } ''echo building the dependency; echo dep > \$out'';
    in
    {
      packages.x86_64-linux = rec {
        default = ok;
        ok = run "mvm-sample-ok" { inherit dep; } ''
          echo '@nix { "action": "setPhase", "phase": "unpackPhase" }' >&2
          echo first line
          echo '@nix { "action": "setPhase", "phase": "buildPhase" }' >&2
          printf 'green \033[32mword\033[0m\n'; printf 'bad \377 byte\n'; printf 'a\rb\n'
          head -c 70000 /dev/zero > \$out'';
        multi = run "mvm-sample-multi" { outputs = [ "out" "dev" ]; } ''echo o > \$out; echo d > \$dev'';
        fails = run "mvm-sample-fails" { } ''
          for n in 1 2 3; do echo "line \$n of the builder"; done; echo "the last words" >&2; exit 7'';
        needs-fails = run "mvm-sample-needs-fails" { inherit fails; } ''echo x > \$out'';
        alien = derivation { name = "mvm-sample-alien"; system = "aarch64-linux"; builder = "/bin/sh"; inherit salt; };
        throws = throw "this attribute always throws";
      };
      salt = "$salt";
    };
}
N
sed -i 's/inherit salt; };/salt = "'"$salt"'"; };/' "$flake/flake.nix"
mkdir "$work/syntax" "$work/empty" "$work/untracked" "$work/remote"
echo '{ outputs = { self }: { packages = ; }; }' > "$work/syntax/flake.nix"
cp "$flake/flake.nix" "$work/untracked/"
git -C "$work/untracked" init -q 2>/dev/null
echo '{ inputs.x.url = "github:mvm-nobody/nothing"; outputs = { self, x }: { packages.x86_64-linux.default = x; }; }' > "$work/remote/flake.nix"

# record NAME ARGS…: stdout, events and exit code of one build
record() {
  local name=$1 rc=0
  shift
  "$nix" build --json --log-format internal-json "$@" > "$work/$name.json" 2> "$work/$name.events" || rc=$?
  echo "$rc" > "$work/$name.rc"
}
p=path:$flake
record ok --out-link "$work/link-ok" "$p"
record cached --out-link "$work/link-ok2" "$p"
out=$(readlink "$work/link-ok")
record store-path --no-link "$out"
record multi --no-link "$p#multi" "$p"
record fails --no-link "$p#fails"
record needs-fails --no-link "$p#needs-fails"
record alien --no-link "$p#alien"
record throws --no-link "$p#throws"
record no-attr --no-link "$p#nothing-here"
record no-dir --no-link "path:$work/absent"
record no-flake-nix --no-link "path:$work/empty"
record syntax --no-link "path:$work/syntax"
record untracked --no-link "git+file://$work/untracked"
record remote --no-link "path:$work/remote"
record indirect --no-link "mvm-no-such-registry-entry#hello"
record bad-option --no-link --no-such-option "$p"
(
  export NIX_CONFIG="${NIX_CONFIG/experimental-features = nix-command flakes/experimental-features =}"
  record no-features --no-link "$p"
)
"$nix" eval --json "$p#packages.x86_64-linux" --apply builtins.attrNames > "$work/attrs.json" 2>/dev/null

# a binary cache on a local port, for download progress and signatures
"$nix" key generate-secret --key-name sample-1 > "$work/sk"
"$nix" key convert-secret-to-public < "$work/sk" > "$work/pk"
"$nix" store sign -k "$work/sk" -r "$out" 2>/dev/null
mkdir "$work/cache"
"$nix" copy --to "file://$work/cache?compression=none" "$out" 2>/dev/null
python3 - "$work/cache" "$work/port" <<'P' &
import functools, http.server, sys
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=sys.argv[1]))
open(sys.argv[2] + ".tmp", "w").write(str(s.server_port))
import os; os.rename(sys.argv[2] + ".tmp", sys.argv[2])
s.serve_forever()
P
server=$!
until [ -s "$work/port" ]; do kill -0 "$server"; sleep 0.05; done
url=http://127.0.0.1:$(cat "$work/port")
record substitute --no-link --store "local?root=$work/sub" --option substituters "$url" \
  --option trusted-public-keys "$(cat "$work/pk")" --max-jobs 0 "$p"
record untrusted --no-link --store "local?root=$work/sub2" --option substituters "$url" \
  --option trusted-public-keys "" --max-jobs 0 "$p"
chmod -R u+w "$work/sub" "$work/sub2" 2>/dev/null || true

# folders that cannot be written to, and disks without room, are mounts of our own
own_mount() {
  local options=$1
  shift
  mkdir -p "$work/mount"
  unshare --mount --map-root-user bash -c 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"' bash "$options" "$work/mount" "$@"
}
export -f record
export nix work url
mkdir "$work/tracked" "$work/large"
cp "$flake/flake.nix" "$work/large/"
head -c 8000000 /dev/urandom > "$work/large/blob"
echo '{ outputs = { self }: import ./outputs.nix; }' > "$work/tracked/flake.nix"
echo '{ }' > "$work/tracked/outputs.nix"
git -C "$work/tracked" init -q 2>/dev/null
git -C "$work/tracked" add flake.nix
record untracked-import --no-link "git+file://$work/tracked"
own_mount ro bash -c 'XDG_CACHE_HOME=$work/mount/cache record read-only-cache --no-link "$url/none.tar.gz"'
own_mount size=6m bash -c 'record no-space --no-link --store "local?root=$work/mount" "path:$work/large"'
# a daemon that trusts nobody, asked for something that is not built yet
sed -i 's/"mvm-sample-multi"/"mvm-sample-distrusted"/' "$flake/flake.nix"
NIX_DAEMON_SOCKET_PATH=$work/socket/daemon "$nix" daemon --extra-experimental-features nix-command \
  --option trusted-users nobody 2>/dev/null &
daemon=$!
trap '[ -z "$server" ] || kill "$server"; kill "$daemon"; rm -rf "$work"' EXIT
until [ -S "$work/socket/daemon" ]; do kill -0 "$daemon"; sleep 0.05; done
NIX_REMOTE=unix://$work/socket/daemon record untrusted-substituter --no-link --option substituters "$url" \
  --max-jobs 0 "$p#multi"

mkdir -p "$dest"
"$nix" --version > "$dest/version.txt"
# repeated progress results are folded (uniq) to keep the samples small; places of this run become fixed ones
for f in "$work"/*.json "$work"/*.events "$work"/*.rc; do
  sed -e "s|$work|/tmp/sample|g" -e "s|$url|http://127.0.0.1:8099|g" -e "s|'[^']*/bin/nix --help'|'nix --help'|" "$f" |
    uniq > "$dest/${f##*/}"
done
