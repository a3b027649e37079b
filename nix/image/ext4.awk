# Reads "PATH/KIND/SIZE" lines of a folder that becomes an ext4 file system with 4 KiB blocks.
#   task=size    prints how many bytes the file system needs, in whole MiB
#   task=inodes  prints debugfs commands for owners, modes and times; lines "=MODE UID GID PATH" (four digits of mode) come first

function blocks(bytes) { return int((bytes + 4095) / 4096) * 4096 }

/^=/ {
  path = $0
  sub(/^=[^ ]* [^ ]* [^ ]* /, "", path)
  split(substr($0, 2), field, " ")
  mode[path] = field[1]; uid[path] = field[2]; gid[path] = field[3]
  owned = NR
  next
}

{
  size = $0; sub(/.*\//, "", size)
  kind = $0; sub(/\/[^\/]*$/, "", kind)
  path = kind; sub(/.*\//, "", kind); sub(/\/[^\/]*$/, "", path)
  sub(/^\./, "", path)
  if (path == "") path = "/"
  name = path; sub(/.*\//, "", name)
}

task == "size" {
  # An inode, its name in a folder (these fill up unevenly), and its data. A short link's target lies in the inode.
  total += 256 + 2 * (length(name) + 12)
  if (kind == "directory") total += 4096
  else if (kind !~ /link/ || size >= 60) total += blocks(size)
}

task == "inodes" {
  # The first ten inodes are the file system's own, the root among them; lost+found is 11. mke2fs takes the next free one
  # for each file, so they follow without a gap, in whatever order. By number, for a path is searched from the top.
  if (NR > owned) last = 10 + NR - owned
  present[path] = kind
}

END {
  if (task == "size") {
    # Tables, bitmaps and the reserve of a group: 2 MiB and a hundredth.
    mib = 1048576
    print int((total * 1.01 + 2 * mib + mib - 1) / mib) * mib
  }
  if (task == "inodes") {
    fields = split("uid 0/gid 0/atime @1/ctime @1/mtime @1/crtime @1", value, "/")
    for (i = 11; i <= last; i++) own("<" i ">", value, fields)
    own("<2>", value, fields)
    for (path in mode) {
      if (!(path in present)) { print "there is no " path " to own" > "/dev/stderr"; exit 1 }
      quoted = path
      gsub(/"/, "\"\"", quoted)
      quoted = "\"" quoted "\""
      print "set_inode_field " quoted " uid " uid[path]
      print "set_inode_field " quoted " gid " gid[path]
      # As text: some awks take a number with a leading zero for octal.
      print "set_inode_field " quoted " mode 0" (present[path] == "directory" ? "4" : "10") mode[path]
    }
    # That there is no gap, and nothing beyond.
    print "testi <" last ">"
    print "testi <" last + 1 ">"
  }
}

function own(inode, value, fields,   i) {
  for (i = 1; i <= fields; i++) print "set_inode_field " inode " " value[i]
}
