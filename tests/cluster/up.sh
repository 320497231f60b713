#!/usr/bin/env bash
# A SLURM cluster of one machine for the tests marked `slurm`: Debian's slurm-wlm and munge, on the loopback address
# only, with four GPUs that are names for /dev/null. Needs root; no systemd. tests/cluster/down.sh stops it.
set -euo pipefail
state=/var/tmp/lplgrad-slurm
mark="# Written by LPLgrad's tests/cluster/up.sh"

fail() { echo "tests/cluster/up.sh: $*" >&2; exit 1; }
running() { [ -s "$state/$1.pid" ] && kill -0 "$(cat "$state/$1.pid")" 2>/dev/null; }
wait_for() { for _ in $(seq 150); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done; fail "waited in vain for: $*"; }

[ "$(id -u)" = 0 ] || fail "must be root"
for program in slurmctld slurmd sbatch munged; do
  PATH=$PATH:/usr/sbin command -v $program >/dev/null || fail "$program is missing: apt-get install slurm-wlm munge"
done
[ ! -e /etc/slurm/slurm.conf ] || grep -qF "$mark" /etc/slurm/slurm.conf ||
  fail "/etc/slurm/slurm.conf is of another cluster; it is not touched"

mkdir -p "$state"/{controller,node,gpus} /etc/slurm
for gpu in 0 1 2 3; do ln -sfn /dev/null "$state/gpus/gpu$gpu"; done
host=$(hostname -s)
getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >> /etc/hosts

cat > /etc/slurm/slurm.conf <<CONF
$mark
ClusterName=lplgrad
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job starts when its old credential has expired, after two minutes by default.
AuthInfo=cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile=$state/controller.pid
SlurmdPidFile=$state/node.pid
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/node
SlurmctldLogFile=$state/controller.log
SlurmdLogFile=$state/node.log
# A container has no control groups of its own to give to jobs, and this cluster keeps no accounts.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
# Jobs that have ended stay known for this long: squeue is all that Snakemake can ask here.
MinJobAge=300
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
ReturnToService=2
GresTypes=gpu
# Believed, whatever the machine has.
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 Gres=gpu:4 State=UNKNOWN
PartitionName=gpu Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 DefMemPerCPU=100
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 DefMemPerCPU=100
CONF
echo "NodeName=$host Name=gpu File=$state/gpus/gpu[0-3]" > /etc/slurm/gres.conf
# "disabled" is a plugin since SLURM 23.11; before it, v1 is loaded and nothing asked of it.
if ls /usr/lib/*/slurm*/cgroup_disabled.so >/dev/null 2>&1; then plugin=disabled; else plugin=cgroup/v1; fi
echo "CgroupPlugin=$plugin" > /etc/slurm/cgroup.conf

if ! munge -n < /dev/null >/dev/null 2>&1; then
  [ -s /etc/munge/munge.key ] || (umask 077; head -c 1024 /dev/urandom > /etc/munge/munge.key)
  mkdir -p /run/munge /var/log/munge /var/lib/munge
  chown -R munge: /run/munge /var/log/munge /var/lib/munge /etc/munge
  chmod 755 /run/munge
  runuser -u munge -- /usr/sbin/munged
  wait_for sh -c "munge -n < /dev/null"
fi
running controller || /usr/sbin/slurmctld
wait_for scontrol ping
running node || /usr/sbin/slurmd -N "$host"
ready() {
  case "$(sinfo -h -n "$host" -p gpu -o %T)" in idle | mixed | allocated) return 0 ;; esac
  scontrol update nodename="$host" state=resume || true
  return 1
}
wait_for ready
sinfo
