#!/usr/bin/env -S bash -p
# Create the environments that a target needs: tools/setup.sh main test lambda localstack dbt outside spark airflow checkov node java
# main is .venv with the packages that `make demo` needs; test, check, fuzz, browser and bench add their dependency groups
# to it. lambda, localstack, dbt, outside, spark (Python 3.11), airflow and checkov are incompatible with each other, so
# they are separate environments in .venvs/. node is node_modules. java is only checked for, and chromium is installed
# with apt only if the user is root. Complete environments are skipped if neither their inputs nor their folder have changed.
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
keep_only_what_installing_needs() { # keep the variables for proxies, certificates and indexes; cli/environment.py has the same list
  local name
  for name in $(compgen -e); do
    case $name in
      PATH | HOME | USER | LOGNAME | SHELL | TMPDIR | TERM | LANG | JAVA_HOME | PYENV_ROOT | NETRC | NPM_TOKEN | SECONDS) ;;
      [Hh][Tt][Tt][Pp]_[Pp]* | [Hh][Tt][Tt][Pp][Ss]_[Pp]* | [Aa][Ll][Ll]_[Pp]* | [Nn][Oo]_[Pp]*) ;;
      SSL_CERT_FILE | SSL_CERT_DIR | REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE | NODE_EXTRA_CA_CERTS | XDG_*_HOME) ;;
      UV_CACHE_DIR | UV_*INDEX* | UV_FIND_LINKS | UV_NATIVE_TLS | UV_SYSTEM_CERTS | UV_HTTP_TIMEOUT | UV_INSECURE_HOST) ;;
      UV_KEYRING_PROVIDER | UV_LINK_MODE | UV_CONCURRENT_*) ;;
      PIP_*INDEX_URL | PIP_FIND_LINKS | PIP_*CERT | PIP_TRUSTED_HOST | PIP_PROXY | PIP_CACHE_DIR | PIP_CONFIG_FILE) ;;
      PIP_TIMEOUT | PIP_DEFAULT_TIMEOUT | PIP_RETRIES) ;;
      npm_config_*registry | npm_config_*proxy | npm_config_ca* | npm_config_strict_ssl) ;;
      NPM_CONFIG_*REGISTRY | NPM_CONFIG_*PROXY | NPM_CONFIG_CA* | NPM_CONFIG_STRICT_SSL) ;;
      *) unset "$name" 2>/dev/null || true ;; # some of bash's own variables cannot be unset
    esac
  done
}
keep_only_what_installing_needs
export UV_PYTHON_DOWNLOADS=never PIP_USER=0 PYTHONUTF8=1
system_certificates=/etc/ssl/certs/ca-certificates.crt # uv's own list lacks the certificates of company proxies
if [ -z "${SSL_CERT_FILE:-}" ] && [ -f $system_certificates ]; then export SSL_CERT_FILE=$system_certificates; fi

cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache} # uv and npm fail without a writable cache
if ! { [ -d "${HOME:-}" ] && [ -w "$HOME" ] && mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null; then
  export UV_CACHE_DIR=${UV_CACHE_DIR:-$(pwd)/.venvs/cache/uv} npm_config_cache=$(pwd)/.venvs/cache/npm PIP_CACHE_DIR=${PIP_CACHE_DIR:-$(pwd)/.venvs/cache/pip}
fi

say() { printf '%s\n' "$*" >&2; }
die() { say "setup: $*"; exit 1; }

# --- tools ---------------------------------------------------------------------------------------

is_python() { # arguments: a version such as 3.13, a program
  [ -n "${2:-}" ] && "$2" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" >/dev/null 2>&1
}

find_python() { # try each candidate, because a python3.13 on PATH may be a pyenv shim without that version
  local version=$1 candidate uv pyenv_root=${PYENV_ROOT:-${HOME:-}/.pyenv}
  for candidate in "python$version" python3 python "$pyenv_root/versions/$version".*/bin/"python$version"; do
    if is_python "$version" "$candidate"; then command -v "$candidate"; return; fi
  done
  uv=$(command -v .venv/bin/uv || command -v uv) || true
  if [ -n "$uv" ]; then
    candidate=$("$uv" python find "$version" 2>/dev/null) ||
      { UV_PYTHON_DOWNLOADS=manual "$uv" python install -q "$version" >/dev/null 2>&1; candidate=$("$uv" python find "$version" 2>/dev/null); } || true
    if is_python "$version" "$candidate"; then printf '%s\n' "$candidate"; return; fi
  fi
  die "Python $version is needed and was not found (python3 is $(python3 --version 2>&1 | head -n 1)). Install it: apt install python$version-venv, pyenv install $version, or uv python install $version."
}

need_node() { # osls refuses to start with other versions
  local version major minor
  version=$(node --version 2>/dev/null) || die "Node 20.19+, 22.13+ or 24+ is needed and was not found. Install it: apt install nodejs npm."
  IFS=. read -r major minor _ <<<"${version#v}"
  case $major in
    20) [ "$minor" -ge 19 ] ;;
    22) [ "$minor" -ge 13 ] ;;
    *) [ "$major" -ge 24 ] ;;
  esac || die "Node 20.19+, 22.13+ or 24+ is needed; this is $version. Install one of these."
  command -v npm >/dev/null || die "npm is needed and was not found. Install it: apt install npm."
}

need_java() {
  local version
  version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1) || true
  [ "${version:-0}" -ge 17 ] || die "Java 17 or newer is needed for the Kinesis client library and for Spark. Install it: apt install openjdk-17-jre-headless."
}

has_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null

need_chromium() { # use Debian's package instead of a browser that a test tool downloads
  has_chromium && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "setup: chromium …"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 || true
  fi
  has_chromium || die "The console's tests need Chromium. Install it: apt install chromium."
}

# --- stamps: a hash of the inputs of each folder -----------------------------------------------------

sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }
hash_of() { cat "$@" | sha256 | cut -c1-16; }
is_made() { [ -x "$1" ] && [ "$(cat "$2" 2>/dev/null)" = "$3" ]; } # arguments: a program in the folder, the path of the folder's stamp file, the expected hash

unstamp_if_moved() { # the scripts of an environment, and its links to this clone, are wrong in a moved or copied clone
  if [ -e "$1/.made-at" ] && [ "$(cat "$1/.made-at")" != "$(readlink -f "$1")" ]; then rm -f "$1/.made-from"; fi
}

can_be_updated() { # arguments: a folder, a version. uv skips the packages that an interrupted step has installed only in part
  [ -e "$1/.made-from" ] && is_python "$2" "$1/bin/python"
}

stamp() { # arguments: a folder, the hash of its inputs
  readlink -f "$1" >"$1/.made-at"
  echo "$2" >"$1/.made-from"
}

step() { # arguments: a title, then a command
  local what=$1 start=$SECONDS
  shift
  say "setup: $what …"
  "$@" || failed "$what failed, see the messages above. Fix the cause and run this again; finished steps are skipped."
  say "setup: $what, $((SECONDS - start)) s"
}

failed() { # the message if the disk is not full
  local free_mb
  free_mb=$(df -Pm . | awk 'NR==2 {print $4}')
  [ "$free_mb" -ge 500 ] || die "the disk is almost full ($free_mb MB free). Make 3 GB free and run this again."
  die "$1"
}

# --- environments ----------------------------------------------------------------------------------

python_version=$(cat .python-version)
GROUPS_OF_MAIN=(test check fuzz browser bench) # each has a requirements-GROUP.txt

make_main() { # create .venv with the requested groups and those of earlier runs
  local stamp=.venv/.made-from group wanted files=(requirements.txt) groups=" ${asked[*]} $(cat .venv/.groups 2>/dev/null) " made=()
  for group in "${GROUPS_OF_MAIN[@]}"; do
    if [[ $groups == *" $group "* ]]; then made+=("$group") files+=("requirements-$group.txt"); fi
  done
  wanted=$(hash_of "${files[@]}" "${PROJECTS[@]/%//pyproject.toml}")
  unstamp_if_moved .venv
  if is_made .venv/bin/python $stamp "$wanted"; then return; fi
  command -v git >/dev/null || die "git is needed and was not found. Install it: apt install git."
  if ! can_be_updated .venv "$python_version"; then
    local python
    python=$(find_python "$python_version")
    "$python" -m venv --clear .venv || failed "$python cannot make environments. Install its venv module: apt install python$python_version-venv."
  fi
  rm -f $stamp
  step "environment .venv${made[*]:+ with ${made[*]}}" install_main "${files[@]}"
  echo "${made[*]}" >.venv/.groups
  stamp .venv "$wanted"
}

PROJECTS=(. localstack/snowflake tools/conformance) # installed in editable mode in .venv

install_main() { # arguments: the requirements files
  if ! .venv/bin/uv --version >/dev/null 2>&1; then
    local uv_only
    uv_only=$(mktemp)
    sed -n '/^uv==/,/[^\\]$/p' requirements.txt >"$uv_only" # uv's line with its hashes
    .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r "$uv_only" || return 1
    rm -f "$uv_only"
  fi
  .venv/bin/uv pip sync -q --python .venv/bin/python --require-hashes "$@" &&
    .venv/bin/uv pip install -q --python .venv/bin/python --no-deps "${PROJECTS[@]/#/--editable=}"
}

make_environment() { # arguments: name, requirements, other inputs, command to run after installing, Python version
  local name=$1 requirements=$2 inputs=$3 after=${4:-true} version=${5:-$python_version}
  local folder=.venvs/$name wanted
  # shellcheck disable=SC2086 # inputs are several words
  wanted=$(hash_of $requirements $inputs)
  unstamp_if_moved "$folder"
  if is_made "$folder/bin/python" "$folder/.made-from" "$wanted"; then return; fi
  make_main
  step "environment $folder" install_environment "$folder" "$requirements" "$after" "$version"
  stamp "$folder" "$wanted"
}

install_environment() {
  if ! can_be_updated "$1" "$4"; then
    local python
    python=$(find_python "$4") && .venv/bin/uv venv -q --clear --python "$python" "$1" || return 1
  fi
  rm -f "$1/.made-from"
  .venv/bin/uv pip sync -q --python "$1/bin/python" --require-hashes "$2" && $3 "$1"
}

install_plugin() { .venv/bin/uv pip install -q --python "$1/bin/python" --no-deps -e localstack/lambda_executor; }

make_node() {
  local stamp=node_modules/.made-from wanted
  wanted=$(hash_of package.json package-lock.json)
  if is_made node_modules/.bin/osls $stamp "$wanted"; then return; fi
  need_node
  step "node_modules" npm ci --silent --ignore-scripts --include=dev
  echo "$wanted" >$stamp
}

# --- main ---------------------------------------------------------------------------------------------

[ $# -gt 0 ] || die "name the environments: main test check fuzz browser bench lambda localstack dbt outside spark airflow checkov node java chromium"
mkdir -p .venvs
if command -v flock >/dev/null && { : >>.venvs/.lock; } 2>/dev/null; then # a complete clone may be read-only
  exec 9>.venvs/.lock # of two concurrent runs, the second waits and then has nothing to do
  flock -n 9 || { say "setup: waiting for another setup of this clone …"; flock 9; }
fi
asked=("$@")
for name in "${asked[@]}"; do
  case $name in
    main | test | check | fuzz | browser | bench) make_main ;;
    lambda) make_environment lambda localstack/lambda_executor/lambda-requirements.txt "" ;;
    checkov) make_environment checkov requirements-checkov.txt "" ;;
    localstack) make_environment localstack localstack/requirements.txt localstack/lambda_executor/pyproject.toml install_plugin ;;
    dbt) make_environment dbt snowpipe/dbt/requirements.txt "" ;;
    outside) make_environment outside localstack/snowflake/outside/requirements.txt "" ;;
    spark)
      need_java
      make_environment spark glue/requirements.txt "" true 3.11 ;; # Python's version in AWS Glue 5
    airflow) make_environment airflow airflow/requirements.txt "" ;;
    node) make_node ;;
    java) need_java ;;
    chromium) need_chromium ;;
    *) die "there is no environment $name; choose from main test check fuzz browser bench lambda localstack dbt outside spark airflow checkov node java chromium" ;;
  esac
done
