#!/bin/sh
# bench.sh DIRECTORY: compile what the benchmark needs: the stop-watch, and the smallest honest program for a container.
set -eu
mkdir -p "$1"
cd "$(dirname "$0")"
"${CC:-gcc}" -Wall -Wextra -Werror -Os -static -s -o "$1/timed" ../bench/timed.c
echo 'int main(void) { return 0; }' | "${CC:-gcc}" -Os -static -s -x c -o "$1/true" -
