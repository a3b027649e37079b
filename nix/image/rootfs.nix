# The ext4 root of a guest: the same bytes wherever and by whomever it is built, without root and without mounts.
{ run }:
{
  name,
  content,
  agent,
  # Bytes, or null for as many as are needed.
  size,
}:
run {
  inherit name;
  script = ./rootfs.sh;
  variables = {
    inherit content;
    agent = agent.program;
    size = if size == null then "" else toString size;
    awk = "${./ext4.awk}";
    config = "${./mke2fs.conf}";
  };
  attributes = {
    # The guest has all its store paths inside: its host needs to keep none of them (Nix before 2.17 keeps them anyway).
    __structuredAttrs = true;
    unsafeDiscardReferences.out = true;
    exportReferencesGraph.closure = [ content ];
  };
}
