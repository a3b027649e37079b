# Reads "PATH/KIND/SIZE" lines of a folder that becomes an ext4 file system with 4 KiB blocks.
#   task=size    prints how many bytes the file system needs, in whole MiB
#   task=inodes  prints debugfs commands for owners, modes and times; lines "=MODE UID GID PATH" (four digits of mode) come first

function blocks(bytes) { return int((bytes + 4095) / 4096) * 4096 }

/^=/ {
  path = $0
  sub(/^=[^ ]* [^ ]* [^ ]* /, "", path)
  split(substr($0, 2), field, " ")
  mode[path] = field[1]; uid[path] = field[2]; gid[path] = field[3]
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
  quoted = path; gsub(/"/, "\"\"", quoted)
  field["uid"] = path in uid ? uid[path] : 0
  field["gid"] = path in gid ? gid[path] : 0
  command = "set_inode_field \"" quoted "\" "
  print command "uid " field["uid"]
  print command "gid " field["gid"]
  print command "atime @1"
  print command "ctime @1"
  print command "mtime @1"
  print command "crtime @1"
  # As text: some awks take a number with a leading zero for octal.
  if (path in mode) print command "mode 0" (kind == "directory" ? "4" : "10") mode[path]
  seen[path] = 1
}

END {
  if (task == "size") {
    # Tables, bitmaps and the reserve of a group: 2 MiB and a hundredth.
    mib = 1048576
    print int((total * 1.01 + 2 * mib + mib - 1) / mib) * mib
  }
  if (task == "inodes") {
    for (path in mode) if (!(path in seen)) { print "no " path " to own" > "/dev/stderr"; exit 1 }
  }
}
