ip route del 192.0.2.10/32 table 10900 protocol 107
