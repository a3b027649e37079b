# Makes $out/initrd.cpio from the agent and $modules/*.ko.
mkdir -p root/dev root/mnt root/proc root/sys root/modules
cp "$agent" root/init
for module in "$modules"/*.ko; do
  [ ! -e "$module" ] || cp "$module" root/modules/
done
find root -type f -exec chmod 644 {} +
chmod 755 root/init
find root -exec touch -h -d @1 {} +
mkdir "$out"
(cd root && find . | sort) >list
# Uncompressed: a guest reads faster than it unpacks.
(cd root && $cpio --quiet -o -H newc --reproducible -R 0:0) <list >"$out/initrd.cpio"
