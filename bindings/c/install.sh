#!/bin/sh
# Installs fused-adam for C and C++ under a prefix: the header, both libraries, the files for
# pkg-config and CMake, and suppressions for valgrind. Build first:
#
#   cargo build --release -p fused-adam-c
#   bindings/c/install.sh --prefix /usr/local
#
# --prefix DIR   install under DIR; default /usr/local
# --from DIR     take the libraries from DIR; default `target/release` of the workspace
# --destdir DIR  prepend DIR to the prefix, to build a package; default $DESTDIR
# --help         print this text
#
# --prefix=DIR and so on work too. After an error no file is changed.
set -eu
umask 022

fail() { echo "install.sh: $1" >&2; exit "${2:-1}"; }

here=$(CDPATH='' cd -- "$(dirname "$0")" && pwd)
prefix=/usr/local
from=${CARGO_TARGET_DIR:-$here/../../target}/release
destdir=${DESTDIR:-}

while [ $# -gt 0 ]; do
  option=$1
  shift
  case $option in
    -h | --help) sed -n '1d; /^set/q; s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --prefix=* | --from=* | --destdir=*) value=${option#*=} option=${option%%=*} ;;
    --prefix | --from | --destdir)
      [ $# -gt 0 ] || fail "$option needs a directory" 2
      value=$1
      shift
      ;;
    *) fail "unknown option $option, expected --prefix, --from, --destdir or --help" 2 ;;
  esac
  [ -n "$value" ] || fail "$option needs a directory" 2
  case $option in
    --prefix) prefix=$value ;;
    --from) from=$value ;;
    --destdir) destdir=$value ;;
  esac
done
case $prefix in
  /*) ;;
  *) fail "the prefix is $prefix, expected an absolute path" 2 ;;
esac

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/Cargo.toml" | head -n 1)
# The system libraries that the Rust standard library needs.
case $(uname -s) in
  Darwin)
    private="-liconv -lSystem -lc -lm" built=libfused_adam_c.dylib
    shared=libfused_adam.dylib soname=@rpath/libfused_adam.dylib
    ;;
  *)
    private="-lgcc_s -lpthread -ldl -lm -lc" built=libfused_adam_c.so
    # Programs load the library by its soname, which has the version of the interface.
    shared=libfused_adam.so.$version soname=libfused_adam.so.0
    ;;
esac
for library in "$from/$built" "$from/libfused_adam_c.a"; do
  [ -f "$library" ] ||
    fail "there is no $library. Build first: cargo build --release -p fused-adam-c"
done

# First everything goes into a folder in the destination. Then each file is renamed.
to=$destdir$prefix
mkdir -p "$to" || fail "cannot create $to"
stage=$(mktemp -d "$to/.fused-adam.XXXXXX") || fail "cannot write to $to"
trap 'rm -rf "$stage"' EXIT
trap 'exit 1' HUP INT TERM
folders="include lib lib/pkgconfig lib/cmake/fused-adam share/fused-adam"

# Fills in a template. In a file for pkg-config, spaces of the prefix are escaped.
fill() {
  case $1 in *.pc.in) value=$(printf '%s' "$prefix" | sed 's/ /\\ /g') ;; *) value=$prefix ;; esac
  sed -e "s|@prefix@|$(printf '%s' "$value" | sed 's/[&|\\]/\\&/g')|" -e "s|@version@|$version|" \
    -e "s|@series@|${version%.*}|" -e "s|@private@|$private|" -e "s|@shared@|$shared|" \
    -e "s|@soname@|$soname|" -e "s|@private_list@|$(echo "$private" | tr ' ' ';')|" \
    "$here/$1" > "$stage/$2/${1%.in}"
  chmod 644 "$stage/$2/${1%.in}"
}

for folder in $folders; do mkdir -p "$stage/$folder"; done
install -m 644 "$here/include/fused_adam.h" "$stage/include/"
install -m 644 "$here/fused-adam.supp" "$stage/share/fused-adam/"
install -m 644 "$from/libfused_adam_c.a" "$stage/lib/libfused_adam.a"
install -m 755 "$from/$built" "$stage/lib/$shared"
if [ "$shared" = libfused_adam.dylib ]; then
  install_name_tool -id "$soname" "$stage/lib/$shared"
else
  ln -s "$shared" "$stage/lib/$soname"
  ln -s "$soname" "$stage/lib/libfused_adam.so"
fi
fill fused-adam.pc.in lib/pkgconfig
fill fused-adam-config.cmake.in lib/cmake/fused-adam
fill fused-adam-config-version.cmake.in lib/cmake/fused-adam

# What could make a rename fail.
for folder in $folders; do
  mkdir -p "$to/$folder" || fail "cannot create $to/$folder"
  [ -w "$to/$folder" ] || fail "cannot write to $to/$folder"
done
files=$(cd "$stage" && find . ! -type d)
for file in $files; do
  [ ! -d "$to/$file" ] || fail "$to/${file#./} is a directory, expected a file or nothing"
done

# Replaces the files. If one of them cannot be replaced, puts back those of before.
undo() {
  for file in $done; do
    rm -f "$to/$file"
    if [ -e "$stage/old/$file" ] || [ -L "$stage/old/$file" ]; then
      mv -f "$stage/old/$file" "$to/$file"
    fi
  done
  fail "cannot replace $to/${1#./}"
}
trap '' HUP INT TERM
done=
for folder in $folders; do mkdir -p "$stage/old/$folder"; done
for file in $files; do
  if [ -e "$to/$file" ] || [ -L "$to/$file" ]; then
    mv -f "$to/$file" "$stage/old/$file" || undo "$file"
  fi
  done="$done $file"
  mv -f "$stage/$file" "$to/$file" || undo "$file"
done
echo "fused-adam $version is under $to"
