# The guest kernel: nixpkgs' sources of the series that scripts/build-kernel.sh builds, with the same fragments
# (kernel/README.md says what is in them and why).
{
  lib,
  stdenv,
  buildPackages,
  bc,
  bison,
  flex,
  perl,
  openssl,
  elfutils,
  linux,
  # Names of optional fragments, as in kernel/network.config.
  extra ? [ ],
}:
let
  inherit (stdenv) hostPlatform;
  cpu = hostPlatform.parsed.cpu.name;
  x86 = cpu == "x86_64";
  arch = if x86 then "x86_64" else "arm64";
  image = if x86 then "vmlinux" else "arch/arm64/boot/Image";
  file = if x86 then "vmlinux" else "Image";
  fragments = map (name: "${../../kernel + "/${name}.config"}") (
    [
      "common"
      cpu
    ]
    ++ extra
  );
in
assert lib.assertMsg (builtins.elem cpu [
  "x86_64"
  "aarch64"
]) "there is no guest kernel for ${cpu}";
stdenv.mkDerivation {
  pname = lib.concatStringsSep "-" ([ "mvm-kernel" ] ++ extra);
  inherit (linux) version src;

  depsBuildBuild = [ buildPackages.stdenv.cc ];
  nativeBuildInputs = [
    bc
    bison
    flex
    perl
    openssl
    elfutils
  ];
  # A kernel chooses its own protections, in the fragments.
  hardeningDisable = [ "all" ];
  enableParallelBuilding = true;
  makeFlags = [
    "ARCH=${arch}"
    "CROSS_COMPILE=${stdenv.cc.targetPrefix}"
    "HOSTCC=${buildPackages.stdenv.cc}/bin/${buildPackages.stdenv.cc.targetPrefix}cc"
    "LOCALVERSION=-mvm"
    "KBUILD_BUILD_USER=mvm"
    "KBUILD_BUILD_HOST=mvm"
    "KBUILD_BUILD_VERSION=1"
  ];

  postPatch = ''
    patchShebangs scripts
  '';
  configurePhase = ''
    runHook preConfigure
    # The source's date, so that the same source gives the same kernel.
    export KBUILD_BUILD_TIMESTAMP="$(date -u -d "@$SOURCE_DATE_EPOCH")"
    grep -h '^CONFIG_' ${lib.escapeShellArgs fragments} >settings
    make $makeFlags KCONFIG_ALLCONFIG="$PWD/settings" allnoconfig
    # Kconfig drops without a word what it does not know or whose dependencies are missing. Here only the latter is an
    # error: nixpkgs may be some fixes behind the source that scripts/build-kernel.sh checks for the former.
    awk -F= '
      FNR == NR { if (/^CONFIG_/) { value = $0; sub(/^[^=]*=/, "", value); got[$1] = value } ; next }
      { value = $0; sub(/^[^=]*=/, "", value); have = ($1 in got) ? got[$1] : "n"
        if (have != value) print $1 " " value " " have }
    ' .config settings >lost
    while read -r symbol wanted got; do
      if grep -rqE --include='Kconfig*' "^[[:space:]]*(menu)?config ''${symbol#CONFIG_}$" .; then
        echo "Linux $version does not honour $symbol=$wanted: it is $got"
        exit 1
      fi
      echo "Linux $version does not know $symbol"
    done <lost
    runHook postConfigure
  '';
  buildFlags = [ (baseNameOf image) ];
  installPhase = ''
    runHook preInstall
    mkdir "$out"
    ${
      # Symbols and relocations are of no use to a loader; the PVH entry is a program header and stays.
      if x86 then ''$STRIP -s -o "$out/vmlinux" vmlinux'' else ''cp ${image} "$out/Image"''
    }
    cp .config "$out/config"
    make -s $makeFlags kernelrelease >"$out/release"
    runHook postInstall
  '';
  dontFixup = true;

  # What an image of this kernel has to say (nix/image.nix).
  passthru = {
    mvm = {
      inherit file;
      format = if x86 then "elf" else "Image";
      # Its drives are on the command line or in the device tree: without ACPI it boots a tenth faster.
      params = [ "acpi=off" ];
    };
  };
  meta = {
    description = "Linux with everything that an mvm guest needs built in";
    license = lib.licenses.gpl2Only;
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
