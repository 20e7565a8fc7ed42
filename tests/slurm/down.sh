#!/usr/bin/env bash
# Stops what up.sh started, by process id, newest first, and waits for it: the next one takes the same ports.
# usage: down.sh STATE_DIR
# Jobs go first: a step's daemon outlives the others.
export SLURM_CONF="$1/slurm.conf"
timeout 10 squeue -h -o %A 2>/dev/null | sort -u | xargs -r timeout 10 scancel 2>/dev/null
for _ in $(seq 20); do timeout 5 squeue -h 2>/dev/null | grep -q . || break; sleep 0.5; done
tac "$1/pids" | grep . | while read -r p; do kill "$p" 2>/dev/null || true; done
for _ in $(seq 60); do
  left=0
  while read -r p; do [ "$p" ] && kill -0 "$p" 2>/dev/null && left=1; done < "$1/pids"
  [ "$left" = 0 ] && exit 0
  sleep 0.5
done
echo "still running: $(grep . "$1/pids" | tr '\n' ' ')" >&2
exit 1
