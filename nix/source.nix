# Facts that the Nix side takes from the Rust side, so that they are written down once.
let
  cargo = builtins.fromTOML (builtins.readFile ../Cargo.toml);
  lines = builtins.filter builtins.isString (
    builtins.split "\n" (builtins.readFile ../crates/mvm-protocol/src/handshake.rs)
  );
  numbers = builtins.filter (found: found != null) (
    map (builtins.match "pub const PROTOCOL_VERSION: u16 = ([0-9]+);") lines
  );
in
{
  inherit (cargo.workspace.package) version;
  # Of the protocol between host and guest.
  protocol = builtins.fromJSON (builtins.head (builtins.head numbers));
}
