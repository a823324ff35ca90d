"""IPVS: the kernel's own load balancer, NAT mode. Many kernels of virtual machines are without it."""
import shutil
import subprocess

from contenders.contender import Contender
from lab import HTTP_PORT, IPERF_PORT, SERVER, SINK_PORT, VIP


class Ipvs(Contender):
    name = "ipvs"
    title = "IPVS, NAT mode, round robin"
    tools = {"ipvsadm": "ipvsadm"}
    version = ["ipvsadm", "--version"]
    processes = False

    def absent(self):
        modprobe = shutil.which("modprobe", path="/sbin:/usr/sbin")
        if modprobe and subprocess.run([modprobe, "-q", "ip_vs"], timeout=20).returncode == 0:
            return None
        with open("/proc/kallsyms") as symbols:
            return None if any(" ip_vs_in_hook" in line or " ip_vs_conn_init" in line for line in symbols) \
                else "this kernel has no ip_vs"

    def start(self, lab, needs):
        lab.own_vip()
        lab.sysctl("box", "net.ipv4.ip_forward", 1)
        for flag, port in (("-t", HTTP_PORT), ("-t", IPERF_PORT), ("-u", SINK_PORT)):
            lab.run("box", ["ipvsadm", "-A", flag, f"{VIP}:{port}", "-s", "rr"], 20)
            lab.run("box", ["ipvsadm", "-a", flag, f"{VIP}:{port}", "-r", f"{SERVER}:{port}", "-m"], 20)
