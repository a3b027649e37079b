# Makes $out/root (the tree) and $out/owners (MODE UID GID PATH of everything that is not as usual).
mkdir -p "$out/root"
cd "$out/root"
mkdir -p bin dev etc/mvm home mnt nix/store proc root run sbin sys tmp usr/local/bin var/empty var/lib var/log var/tmp
ln -s ../bin usr/bin
ln -s ../sbin usr/sbin
ln -s ../run var/run
cat >"$out/owners" <<'OWNERS'
0555 0 0 /proc
0555 0 0 /sys
0700 0 0 /root
1777 0 0 /tmp
1777 0 0 /var/tmp
0555 0 0 /var/empty
OWNERS

# Programs: the first one of a name wins, and the others are told.
link_programs() {
  for program in "$1"/*; do
    [ -e "$program" ] || continue
    if [ -e "$2/${program##*/}" ] || [ -L "$2/${program##*/}" ]; then
      echo "$2/${program##*/} is already there: $program stays out of the way"
    else
      ln -s "$program" "$2/${program##*/}"
    fi
  done
}
if [ -n "$base" ]; then
  link_programs "$base/bin" bin
  link_programs "$base/sbin" sbin
fi
while read -r package; do
  link_programs "$package/bin" usr/local/bin
  link_programs "$package/sbin" usr/local/bin
done <"$packagesPath"
# What is only named here belongs to the guest too: Nix finds it by this file.
{
  echo "$base"
  cat "$packagesPath"
} >"$out/packages"

cp "$guestJsonPath" etc/mvm/guest.json
if [ -s "$passwdPath" ]; then
  cp "$passwdPath" etc/passwd
  cp "$groupPath" etc/group
  cp "$shadowPath" etc/shadow
  echo "0600 0 0 /etc/shadow" >>"$out/owners"
  printf '127.0.0.1 localhost\n::1 localhost\n' >etc/hosts
  ln -s ../proc/self/mounts etc/mtab
  # The agent writes it where the VM has a network.
  : >etc/resolv.conf
  echo /bin/sh >etc/shells
  # shellcheck disable=SC2016 # for the guest's shell
  echo 'export PS1='\''\u@\h:\w\$ '\''' >etc/profile
  printf 'NAME=mvm\nID=mvm\nPRETTY_NAME="mvm guest"\n' >etc/os-release
fi

while read -r kind mode uid gid source path; do
  [ -n "$kind" ] || continue
  at=.$path
  mkdir -p "${at%/*}"
  case $kind in
    directory) mkdir -p "$at" ;;
    text | file | link)
      [ ! -d "$at" ] || [ -L "$at" ] || { echo "$path is a folder"; exit 1; }
      rm -f "$at"
      case $kind in
        text)
          eval "source=\$${source}Path"
          cp "$source" "$at"
          ;;
        file)
          [ -f "$source" ] || { echo "$source, which is to be $path, is not a file"; exit 1; }
          cp "$source" "$at"
          ;;
        link)
          [ -e "$source" ] || { echo "$source, which is to be $path, does not exist"; exit 1; }
          ln -s "$source" "$at"
          echo "$source" >>"$out/packages"
          ;;
      esac
      ;;
  esac
  if [ "$kind" != link ]; then echo "$mode $uid $gid $path" >>"$out/owners"; fi
done <"$planPath"
