#!/usr/bin/env bash
# Checks the Nix side: syntax, format, the lock file, generated files, and the modules where a nixpkgs lib is at hand.
#
# usage: scripts/check-nix.sh [--write]
#   --write                   write the generated files (catalog/index.json, templates/index.json, docs/options*.md) instead of comparing them
#   $MVM_TEST_NIXPKGS_LIB     the folder `lib` of a nixpkgs: tests of the guest options, the catalog and the templates
#   $MVM_TEST_NIXPKGS         a whole nixpkgs: also those of the NixOS modules, on its NixOS
#   $MVM_TEST_MICROVM         a microvm.nix, for those of modules/microvm; $MVM_TEST_NIX_DARWIN a nix-darwin
#   $MVM_TEST_NIXOS_EVAL, $MVM_TEST_DARWIN_EVAL
#                             files with a function from modules to a configuration, where a nixpkgs is not whole
source "$(dirname "$0")/lib/common.sh"
cd "$REPO"

write=
case ${1:-} in
  '') ;;
  --write) write=1 ;;
  *) die "unknown argument '$1'" "usage: scripts/check-nix.sh [--write]" ;;
esac
have nix-instantiate || die "Nix is needed" "scripts/dev-setup.sh installs it"
nix_environment

failed=
fail() {
  printf 'failed: %s\n' "$*" >&2
  failed=1
}
note() { printf 'not checked: %s\n' "$*" >&2; }
# evaluate EXPRESSION: its value as JSON.
evaluate() { nix-instantiate --eval --strict --json --expr "$1"; }
json() { python3 -c "import json, sys; $1" "${@:2}"; }

# --- files -----------------------------------------------------------------------------------------------------------
# Those of crates/ are templates of tests, no Nix.
mapfile -t files < <(git ls-files --cached --others --exclude-standard -- '*.nix' ':!crates' | while read -r file; do
  [ ! -e "$file" ] || printf '%s\n' "$file"
done)
step "syntax of ${#files[@]} files"
for file in "${files[@]}"; do
  nix-instantiate --parse "$file" >/dev/null || fail "$file is no Nix"
done

if have nixfmt; then
  step "format ($(nixfmt --version | head -n 1))"
  if [ -n "$write" ]; then nixfmt "${files[@]}"; else nixfmt --check "${files[@]}" || fail "run nixfmt"; fi
else
  note "the format: nixfmt is not installed (nix develop has it; cargo install --locked nixfmt_rs builds it in minutes)"
fi

# --- what needs no nixpkgs -------------------------------------------------------------------------------------------
# tests NAME ATTRIBUTE FILE ARGUMENTS: runs the attribute's tests of tests/nix/FILE.
tests() {
  local name=$1 attribute=$2 file=$3 arguments=$4 count failures
  # shellcheck disable=SC2016 # Nix's variables
  count=$(evaluate "builtins.length (builtins.attrNames (import ./tests/nix/$file.nix $arguments).$attribute)") || {
    fail "$name cannot be evaluated"
    return
  }
  step "$name: $count tests"
  failures=$(evaluate "import ./tests/nix/run.nix { tests = (import ./tests/nix/$file.nix $arguments).$attribute; }") || {
    fail "$name cannot be evaluated"
    return
  }
  if [ "$failures" != '[]' ]; then
    json 'print(*json.loads(sys.argv[1]), sep="\n")' "$failures" >&2
    fail "$name"
  fi
}

# refusals NAME FILE ARGUMENTS: what the module system itself must refuse, in words of its own.
refusals() {
  local name=$1 file=$2 arguments=$3 cases case words said
  cases=$(evaluate "builtins.mapAttrs (_: e: e.words) (import ./tests/nix/$file.nix $arguments).errors")
  step "$name: $(json 'print(len(json.loads(sys.argv[1])))' "$cases") refusals"
  while IFS=$'\t' read -r case words; do
    [ -n "$case" ] || continue
    if said=$(evaluate "(import ./tests/nix/$file.nix $arguments).errors.\"$case\".value" 2>&1); then
      fail "$name: $case is accepted"
    elif [[ $said != *"$words"* ]]; then
      printf '%s\n' "$said" >&2
      fail "$name: $case is refused without the word '$words'"
    fi
  done < <(json 'print(*("\t".join(i) for i in json.loads(sys.argv[1]).items()), sep="\n")' "$cases")
}

# in_step FILE: compares stdin with the file, or writes it.
in_step() {
  local file=$1 made
  made=$(mktemp)
  cat >"$made"
  if [ -n "$write" ]; then
    cmp -s "$made" "$file" || cp "$made" "$file"
    chmod 644 "$file"
  elif ! cmp -s "$made" "$file"; then
    diff -u "$file" "$made" >&2 || true
    fail "$file is not what the Nix side says: run scripts/check-nix.sh --write"
  fi
  rm "$made"
}

tests "the lock file" tests lock ""
step "catalog/index.json"
evaluate '(import ./catalog).index' |
  json 'print(json.dumps(json.load(sys.stdin), indent=2, sort_keys=True))' | in_step catalog/index.json
step "templates/index.json"
evaluate 'builtins.mapAttrs (_: template: template.description) (removeAttrs (import ./templates) [ "default" ])' |
  json 'print(json.dumps(json.load(sys.stdin), indent=2, sort_keys=True))' | in_step templates/index.json

# --- what needs nixpkgs' lib -----------------------------------------------------------------------------------------
nixpkgs=${MVM_TEST_NIXPKGS:-}
lib=${MVM_TEST_NIXPKGS_LIB:-${nixpkgs:+$nixpkgs/lib}}
if [ -z "$lib" ]; then
  note "the modules, the catalog and docs/options*.md: set MVM_TEST_NIXPKGS_LIB to the folder lib of a nixpkgs, or MVM_TEST_NIXPKGS"
else
  [ -e "$lib/default.nix" ] || die "$lib is not the folder lib of a nixpkgs"
  lib="(import $(realpath "$lib"))"
  say "nixpkgs lib $(evaluate "$lib.version")"
  tests "guest options" tests guest "{ lib = $lib; }"
  refusals "guest options" guest "{ lib = $lib; }"
  tests "catalog and templates" tests catalog "{ lib = $lib; }"
  tests "packages" tests packages "{ lib = $lib; }"

  step "docs/options*.md"
  pages=$(evaluate "import ./nix/options.nix { lib = $lib; }")
  for page in $(json 'print(*json.loads(sys.argv[1]))' "$pages"); do
    json 'print(json.loads(sys.argv[1])[sys.argv[2]], end="")' "$pages" "$page" | in_step "docs/$page"
  done

  nixos=${MVM_TEST_NIXOS_EVAL:+"(import $MVM_TEST_NIXOS_EVAL)"}
  if [ -z "$nixos" ] && [ -n "$nixpkgs" ]; then
    nixos="(modules: import $nixpkgs/nixos/lib/eval-config.nix { system = null; inherit modules; })"
  fi
  if [ -n "$nixos" ] && [ -n "${MVM_TEST_MICROVM:-}" ]; then
    arguments="{ lib = $lib; eval = $nixos; microvm = $MVM_TEST_MICROVM/nixos-modules/microvm; }"
    tests "NixOS modules" tests nixos "$arguments"
    [ -z "$nixpkgs" ] || tests "NixOS images" whole nixos "$arguments"
  else
    note "the NixOS modules: set MVM_TEST_NIXPKGS and MVM_TEST_MICROVM"
  fi

  darwin=${MVM_TEST_DARWIN_EVAL:+"(import $MVM_TEST_DARWIN_EVAL)"}
  if [ -z "$darwin" ] && [ -n "$nixpkgs" ] && [ -n "${MVM_TEST_NIX_DARWIN:-}" ]; then
    darwin="(modules: import $MVM_TEST_NIX_DARWIN/eval-config.nix { lib = $lib; modules = [
      { nixpkgs.source = $nixpkgs; nixpkgs.hostPlatform = \"aarch64-darwin\"; system.stateVersion = 5; system.primaryUser = \"me\"; }
    ] ++ modules; })"
  fi
  if [ -n "$darwin" ]; then
    tests "darwin module" tests darwin "{ lib = $lib; eval = $darwin; }"
  else
    note "the darwin module: set MVM_TEST_NIXPKGS and MVM_TEST_NIX_DARWIN"
  fi
fi

[ -z "$failed" ] || die "the Nix side has faults, named above"
