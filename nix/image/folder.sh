# Makes $out, the image: links to its parts, and image.json with the size that the root has got.
mkdir "$out"
ln -s "$kernel" "$out/kernel"
[ -z "$initrd" ] || ln -s "$initrd/initrd.cpio" "$out/initrd.cpio"
ln -s "$rootfs/rootfs.ext4" "$out/rootfs.ext4"
bytes=$(stat -L -c %s "$out/rootfs.ext4")
sed "s/\"sizeBytes\":0/\"sizeBytes\":$bytes/" "$manifestPath" >"$out/image.json"
