# That flake.lock is what flake.nix asks for: the same inputs, from the same places, pinned by hashes.
let
  inherit ((import ../../flake.nix)) inputs;
  lock = builtins.fromJSON (builtins.readFile ../../flake.lock);
  root = lock.nodes.${lock.root}.inputs;
  nodes = removeAttrs lock.nodes [ lock.root ];
  names = builtins.attrNames;
  # "github:OWNER/REPO/REF" as a lock file writes it.
  original =
    url:
    let
      parts = builtins.match "github:([^/]+)/([^/]+)(/(.+))?" url;
      ref = builtins.elemAt parts 3;
    in
    {
      type = "github";
      owner = builtins.elemAt parts 0;
      repo = builtins.elemAt parts 1;
    }
    // (if ref == null then { } else { inherit ref; });
  equals = expected: actual: { inherit expected actual; };
  every = f: equals (builtins.mapAttrs (_: _: true) nodes) (builtins.mapAttrs (_: f) nodes);
in
{
  tests = {
    "the lock has the version that every Nix reads" = equals 7 lock.version;
    "the inputs are those of the flake" = equals (names inputs) (names root);
    "they come from where the flake says" = equals (builtins.mapAttrs (
      _: input: original input.url
    ) inputs) (builtins.mapAttrs (_: node: lock.nodes.${node}.original) root);
    # A lock file writes an input of its own as a name, and one that follows another as a path.
    "inputs of inputs follow as the flake says" =
      equals
        (builtins.mapAttrs (_: input: builtins.mapAttrs (_: i: [ i.follows ]) (input.inputs or { })) inputs)
        (
          builtins.mapAttrs (
            _: node:
            let
              all = lock.nodes.${node}.inputs or { };
            in
            removeAttrs all (builtins.filter (name: !builtins.isList all.${name}) (names all))
          ) root
        );
    "each is pinned by its revision" = every (
      node: builtins.match "[0-9a-f]{40}" node.locked.rev != null
    );
    "each is pinned by its content" = every (
      node: builtins.match "sha256-[A-Za-z0-9+/]{43}=" node.locked.narHash != null
    );
  };
}
