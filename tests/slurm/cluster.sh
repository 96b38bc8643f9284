#!/bin/bash
# A whole Slurm on this machine, for tests: cluster.sh up FOLDER | down FOLDER | slurmd FOLDER (starts the node again).
# Everything lives in FOLDER; clients find it by SLURM_CONF=FOLDER/slurm.conf. Needs root, and Debian's packages
# slurm-wlm, munge, slurmdbd and mariadb-server, which `up` installs where they are absent.
set -eu
what=$1 D=$2
export SLURM_CONF=$D/slurm.conf
host=$(hostname -s)

wait_for() {  # seconds, command…
  local left=$1; shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1)); [ $left -gt 0 ] || { echo "never came: $*" >&2; tail -n 5 "$D"/*.log >&2; exit 1; }
    sleep 1
  done
}

install() {
  local needed absent=
  for needed in slurmctld slurmd slurmdbd munged mariadbd; do  # `command -v` of several is content with one
    command -v $needed >/dev/null || absent=1
  done
  [ $absent ] || return 0
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends slurm-wlm munge slurmdbd mariadb-server
}

configure() {
  mkdir -p "$D"/{state,spool,mysql}
  chmod 755 "$D"
  dd if=/dev/urandom bs=1 count=1024 of="$D/munge.key" 2>/dev/null
  chmod 400 "$D/munge.key"
  cat > "$D/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$D/munge.socket
DbdHost=localhost
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile=$D/slurmdbd.pid
LogFile=$D/slurmdbd.log
CONF
  chmod 600 "$D/slurmdbd.conf"
  cat > "$D/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$D/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePass=$D/munge.socket
AccountingStorageEnforce=associations,limits
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
MaxArraySize=21
ReturnToService=2
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.pid
SlurmctldLogFile=$D/slurmctld.log
SlurmdLogFile=$D/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

up() {
  install
  configure
  munged --force --key-file="$D/munge.key" --socket="$D/munge.socket" --pid-file="$D/munged.pid" --log-file="$D/munged.log" \
    --seed-file="$D/munged.seed"
  mariadb-install-db --user=root --datadir="$D/mysql" --auth-root-authentication-method=normal >/dev/null 2>&1
  mariadbd --no-defaults --user=root --datadir="$D/mysql" --skip-networking --socket="$D/mysql.socket" --innodb-buffer-pool-size=64M \
    --innodb-lock-wait-timeout=900 --pid-file="$D/mariadbd.pid" --log-error="$D/mariadbd.log" >/dev/null 2>&1 &
  wait_for 60 mariadb --socket="$D/mysql.socket" -e "select 1"
  mkdir -p /run/mysqld && ln -sf "$D/mysql.socket" /run/mysqld/mysqld.sock  # slurmdbd looks for it there
  slurmdbd_up
  sacctmgr -i add cluster tests >/dev/null 2>&1 || true
  slurmctld -c -f "$SLURM_CONF"
  wait_for 60 scontrol ping
  sacctmgr -i add account tests >/dev/null
  sacctmgr -i add user "$(id -un)" account=tests >/dev/null
  slurmd_up
}

slurmdbd_up() {
  SLURM_CONF=$D/slurm.conf slurmdbd
  wait_for 60 sacctmgr -n show cluster
}

slurmd_up() {
  slurmd -c -f "$SLURM_CONF"
  wait_for 60 sh -c "sinfo -h -o %T | grep -q idle"
}

down() {
  for name in slurmd slurmctld slurmdbd mariadbd munged; do
    [ -s "$D/$name.pid" ] && kill "$(cat "$D/$name.pid")" 2>/dev/null || true
  done
}

case $what in
  up) up ;;
  down) down ;;
  slurmd) slurmd_up ;;
  *) echo "cluster.sh up|down|slurmd FOLDER" >&2; exit 2 ;;
esac
