# What lies in a guest's root besides the store: users, files, links to programs, and the manifest that its agent obeys.
# A derivation of its own, because Nix finds in its text which store paths the guest needs.
{ run }:
{
  name,
  guest,
  base,
  packages,
  users,
  groups,
  directories,
  files,
}:
let
  imap =
    f: list: builtins.genList (i: f (toString i) (builtins.elemAt list i)) (builtins.length list);
  texts = builtins.filter (file: file ? text) files;
  sources = builtins.filter (file: file ? source) files;

  passwd =
    user:
    "${user.name}:x:${toString user.uid}:${toString user.gid}:${user.description}:${user.home}:${user.shell}\n";
  group =
    group: "${group.name}:x:${toString group.gid}:${builtins.concatStringsSep "," group.members}\n";
  concatMapText = f: list: builtins.concatStringsSep "" (map f list);

  passed = {
    guestJson = builtins.toJSON guest;
    passwd = concatMapText passwd users;
    group = concatMapText group groups;
    # No password opens anything: who comes in comes through the agent.
    shadow = concatMapText (user: "${user.name}:*:::::::\n") users;
    packages = concatMapText (package: "${package}\n") packages;
    # KIND MODE UID GID SOURCE PATH; the path is last, since it may have blanks.
    plan = concatMapText (line: "${line}\n") (
      map (d: "directory ${d.mode} ${toString d.uid} ${toString d.gid} - ${d.path}") directories
      ++ imap (i: f: "text ${f.mode} ${toString f.uid} ${toString f.gid} text${i} ${f.path}") texts
      ++ map (
        f:
        if f.mode == null then
          "link - - - ${f.source} ${f.path}"
        else
          "file ${f.mode} ${toString f.uid} ${toString f.gid} ${f.source} ${f.path}"
      ) sources
    );
  }
  // builtins.listToAttrs (
    imap (i: file: {
      name = "text${i}";
      value = file.text;
    }) texts
  );
in
run {
  inherit name;
  script = ./content.sh;
  variables.base = if base == null then "" else "${base}";
  attributes = passed // {
    passAsFile = builtins.attrNames passed;
  };
}
