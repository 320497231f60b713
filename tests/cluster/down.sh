#!/usr/bin/env bash
# Stops what tests/cluster/up.sh started, its jobs first, and removes what it wrote but munge's key.
set -uo pipefail
state=/var/tmp/lplgrad-slurm
grep -qsF "Written by LPLgrad's tests/cluster/up.sh" /etc/slurm/slurm.conf || { echo "it is not up"; exit 0; }
jobs=$(squeue -h -o %A 2>/dev/null | sort -u)
# shellcheck disable=SC2086 # one word for each job
[ -z "$jobs" ] || scancel $jobs
for _ in $(seq 75); do [ -z "$(squeue -h -o %A 2>/dev/null)" ] && break; sleep 0.2; done
# Without control groups a process of a cancelled job whose parent ended first is nobody's.
for environment in $(grep -lzsx 'SLURM_CLUSTER_NAME=lplgrad' /proc/[0-9]*/environ); do
  kill -KILL "$(basename "${environment%/environ}")" 2>/dev/null
done
for daemon in node controller; do
  pid=$(cat "$state/$daemon.pid" 2>/dev/null) || continue
  kill "$pid" 2>/dev/null
  for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
done
rm -rf "$state" /etc/slurm/{slurm,gres,cgroup}.conf
