# Everything a newcomer needs: `make run` to try it, `make test` and `make check` to change it.

LISTEN ?= 127.0.0.1:9001
PYTHON ?= python3
# Processes of the tests, which wait more than they work.
WORKERS ?= 3
VENV := .venv
# From npm: it checks the console page against WCAG.
AXE := axe-core@4.14.1
space := $(subst ,, )
DEMO := test://$(subst $(space),%20,$(CURDIR))/config/demo.xml
URL := http://$(LISTEN)

.PHONY: run test check format bench lab screenshots clean
.DELETE_ON_ERROR:

run: $(VENV)/run
	@tools=virsh packages=libvirt-clients; $(install-missing)
	@echo "The demo: machines of libvirt's embedded test hypervisor, at $(URL). Open that in a browser, or try:"
	@echo "  curl $(URL)/service/machines"
	@echo "  curl $(URL)/service/web-1/state_controller/status"
	@echo "  curl $(URL)/service/web-1/state_controller/pxeboot"
	@exec $(VENV)/bin/python libvirt_mc.py --connect '$(DEMO)' --listen $(LISTEN) \
		--backup-dir $(VENV)/backups

test: $(VENV)/test laboratory network systemd ipmi browser debian proxy $(VENV)/$(AXE)
	$(VENV)/bin/pytest --numprocesses=$(WORKERS) --dist=loadfile $(TESTS)

check: $(VENV)/test
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

format: $(VENV)/test
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

bench: $(VENV)/test laboratory ipmi browser
	@tools=wrk packages=wrk; $(install-missing)
	$(VENV)/bin/python -m tests.bench

# The pictures in docs/, made again of machines in a laboratory.
screenshots: $(VENV)/test laboratory browser
	$(VENV)/bin/python -m tests.screenshots

# A private libvirtd with a few guests, to play with until Enter is pressed.
lab: $(VENV)/test laboratory
	$(VENV)/bin/python -m tests.lab

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: laboratory
laboratory:
	@tools="curl openssl virsh libvirtd qemu-system-x86_64" \
	packages="curl openssl libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu qemu-system-x86"; \
	$(install-missing)

# An sshd to be run by the tests: unpacked, since the package would have the system serve by it.
.PHONY: network
network:
	@tools="ip ss ssh nsenter" packages="iproute2 openssh-client util-linux"; $(install-missing)
	@PATH=$$PATH:/usr/sbin:$(VENV)/openssh/usr/sbin command -v sshd >/dev/null || { $(unpack-sshd); }

.PHONY: ipmi
ipmi:
	@tools="ipmi_sim ipmitool fence_ipmilan" packages="openipmi ipmitool fence-agents"; \
	$(install-missing)

# It only looks at the unit file; nothing is started.
.PHONY: systemd
systemd:
	@tools="systemd-analyze systemd-sysusers" packages=systemd; $(install-missing)

# The distribution's own versions of the libraries, to run the daemon on these as well.
.PHONY: debian
debian:
	@packages="python3-cherrypy3 python3-lxml python3-prometheus-client"; \
	dpkg --status $$packages >/dev/null 2>&1 || { $(install); }

.PHONY: proxy
proxy:
	@tools=nginx packages=nginx-light; $(install-missing)

.PHONY: browser
browser:
	@tools=chromium packages="chromium fonts-dejavu-core"; $(install-missing)

$(VENV)/$(AXE):
	@tools=npm packages=npm; $(install-missing)
	npm install --prefix $(VENV)/npm --no-save --no-audit --no-fund --silent $(AXE)
	@touch $@

$(VENV)/run: requirements.txt
	$(create-venv)
	$(VENV)/bin/pip install --quiet --requirement $<
	@touch $@

$(VENV)/test: tests/requirements.txt requirements.txt
	$(create-venv)
	$(VENV)/bin/pip install --quiet --requirement $<
	@touch $@

# Debian's python3 may come without ensurepip, and then makes no virtual environment.
define create-venv
@$(PYTHON) -c "import ensurepip" 2>/dev/null || { packages=python3-venv; $(install); }
$(PYTHON) -m venv $(VENV)
endef

# Install $packages unless all of $tools are there.
define install-missing
for tool in $$tools; do \
	PATH=$$PATH:/usr/sbin command -v $$tool >/dev/null || { $(install); break; }; \
done
endef

# --no-install-recommends: no system libvirtd is set up or started.
define install
echo "Installing $$packages"; sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
$$sudo apt-get update -qq && \
$$sudo env DEBIAN_FRONTEND=noninteractive \
	apt-get install -y -qq --no-install-recommends $$packages >/dev/null
endef

# libwrap0 is what it needs beside the libraries that its client has brought.
define unpack-sshd
packages=libwrap0; $(install); mkdir -p $(VENV)/openssh && cd $(VENV)/openssh && \
apt-get download -qq openssh-server && dpkg-deb --extract openssh-server_*.deb .
endef
