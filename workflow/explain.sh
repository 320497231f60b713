# Say what the exit status of a job means if a signal ended it (docs/cluster.md), and return it.
explain() {
  again="the same command again goes on where it was (docs/cluster.md)"
  case $2 in
  132) echo "$1: illegal instruction (132): PyTorch was not built for this processor; install another build, then $again" ;;
  134) echo "$1: a library aborted (134); $again; if it aborts there too, set compute.threads to 1 or use another PyTorch" ;;
  135) echo "$1: a file in memory could not be read or written (135); see that no disk is full, nor /dev/shm; then $again" ;;
  136) echo "$1: a library crashed in arithmetic (136); $again; if it crashes there too, use another PyTorch" ;;
  137) echo "$1: killed, most often because memory ran out; $again" ;;
  139) echo "$1: a library crashed (139); $again; if it crashes there too, set compute.threads to 1 or use another PyTorch" ;;
  esac >&2
  return "$2"
}
