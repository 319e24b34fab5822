#!/bin/sh
# attack.sh DIRECTORY: compile the static program that does what a hostile process would.
set -eu
mkdir -p "$1"
cd "$(dirname "$0")"
exec "${CC:-gcc}" -Wall -Wextra -Werror -Wvla -O1 -static -s -o "$1/attack" attack.c
