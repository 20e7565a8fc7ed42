#!/usr/bin/env bash
# A real Slurm on this one machine, for tests, as root. usage: up.sh STATE_DIR [NODES=1]
# Needs: apt-get install -y --no-install-recommends slurm-wlm munge   (8 s). Starts in about 2 s.
# Then: export SLURM_CONF=STATE_DIR/slurm.conf. Stop with down.sh STATE_DIR.
set -e
D=$(mkdir -p "$1" && cd "$1" && pwd); N=${2:-1}; H=$(hostname); export SLURM_CONF=$D/slurm.conf
mkdir -p "$D/state" "$D/log"; : > "$D/pids"
{
cat <<C
ClusterName=local
SlurmctldHost=$H
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=cred_expire=5
SlurmctldPort=16817
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5,defer
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=600
InactiveLimit=0
Waittime=0
C
for i in $(seq "$N"); do echo "NodeName=n$i NodeHostname=$H NodeAddr=127.0.0.1 Port=$((17000 + i)) CPUs=2 RealMemory=8000 State=UNKNOWN"; done
echo "PartitionName=debug Nodes=$(seq -s, -f 'n%g' "$N") Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO"
} > "$SLURM_CONF"
install -d -o munge -g munge -m 755 /run/munge
if ! munge -n </dev/null >/dev/null 2>&1; then
  setpriv --reuid=munge --regid=munge --init-groups /usr/sbin/munged
  { cat /run/munge/munged.pid; echo; } >> "$D/pids"
fi
setsid nohup slurmctld -D -f "$SLURM_CONF" >"$D/log/ctld.out" 2>&1 & echo $! >> "$D/pids"
sleep 1
for i in $(seq "$N"); do mkdir -p "$D/spool/n$i"; setsid nohup slurmd -D -f "$SLURM_CONF" -N "n$i" >"$D/log/slurmd.n$i.out" 2>&1 & echo $! >> "$D/pids"; done
for _ in $(seq 60); do sinfo -h -o '%T' 2>/dev/null | grep -q idle && break; sleep 0.25; done
sinfo -N -l
