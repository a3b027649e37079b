# Makes $out/rootfs.ext4 from $content, the store paths that it needs, and $agent.
mkdir root
cp -RP "$content/root/." root/
chmod -R u+w root
find root -type d -exec chmod 755 {} +
# A kernel without an initrd executes it.
cp "$agent" root/sbin/mvm-guest
chmod 755 root/sbin/mvm-guest

# The closure of $content, as Nix tells it; $content itself has been taken apart above.
attributes=.attrs.json
# Where it lies elsewhere, newer versions of Nix say so; in a sandbox older ones name a place outside of it.
[ -e "$attributes" ] || attributes=$NIX_ATTRS_JSON_FILE
tr ',[' '\n\n' <"$attributes" | sed -n 's/.*"path":"\([^"]*\)".*/\1/p' | sort -u >closure
grep -qxF "$content" closure || { echo "Nix did not tell the closure of $content"; exit 1; }
while read -r path; do
  [ "$path" = "$content" ] || cp -RPp "$path" root/nix/store/
done <closure
if [ -n "$(find root -name '*
*')" ]; then
  echo "a file name has a line break, which cannot be put into an image"
  exit 1
fi
# Whether two equal files of a store are one is a matter of the host: here each is its own. Folders of a store have the mode
# 0555, which keeps us out of them for the moment.
find root/nix/store -type f -links +1 >linked
if [ -s linked ]; then
  find root/nix/store -type d -exec chmod 755 {} +
  while IFS= read -r path; do
    cp -p "$path" copy
    mv -f copy "$path"
  done <linked
  find root/nix/store -mindepth 1 -type d -exec chmod 555 {} +
fi

# Owners and modes of the guest go into the file system below; here they only must let us read.
find root -type f -exec chmod u+r {} +
find root -exec touch -h -d @1 {} +

# PATH, kind and size of everything, in the same order everywhere.
(cd root && find . -exec stat -c '%n/%F/%s' {} +) | sort >list
inodes=$(wc -l <list)
needed=$(awk -v task=size -f "$awk" list)
bytes=${size:-$needed}
if [ "$bytes" -lt "$needed" ]; then
  echo "the root needs $((needed >> 20)) MiB; rootfs.size gives it only $((bytes >> 20)) MiB"
  exit 1
fi

export MKE2FS_CONFIG="$config" E2FSPROGS_FAKE_TIME=1 SOURCE_DATE_EPOCH=1
mkdir "$out"
truncate -s "$bytes" "$out/rootfs.ext4"
# Room for a few more inodes than there are files. lost+found is mke2fs's own.
$mke2fs -q -t ext4 -T default -L mvm-root -m 0 -N $((inodes + 64)) \
  -U 6d766d00-0000-4000-8000-000000000001 \
  -E hash_seed=6d766d00-0000-4000-8000-000000000002,root_owner=0:0,lazy_itable_init=0,no_copy_xattrs \
  -d root "$out/rootfs.ext4"

# mke2fs copies the owners, and before 1.47.1 also the times, of the build folder: write them anew.
sed 's/^/=/' "$content/owners" | cat - list | awk -v task=inodes -f "$awk" >commands
$debugfs -w -f commands "$out/rootfs.ext4" >log 2>&1
# debugfs tells of failures by words only: all it may say are its banner, the echoed commands, and that the inodes are used
# as far as they should be.
grep -v '^debugfs' log >said || true
printf 'Inode %s is %s\n' $((inodes + 10)) 'marked in use' $((inodes + 11)) 'not in use' >expected
if ! cmp -s said expected; then
  cat said
  echo "debugfs did not take all commands"
  exit 1
fi
echo "root: $((bytes >> 20)) MiB, $inodes files and folders, $(($(wc -l <closure) - 1)) store paths"
