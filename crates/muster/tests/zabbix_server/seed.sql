-- The least that a Zabbix server 6.0 starts with, and what the test declares. Ports are put in by the test.
insert into role (roleid,name,type,readonly) values (3,'Super admin role',3,1);
insert into users (userid,username,passwd,roleid) values (1,'Admin','x',3);
insert into hstgrp (groupid,name,internal,flags,uuid) values
 (5,'Discovered hosts',1,0,'00000000000000000000000000000005'),
 (9001,'peers',0,0,'00000000000000000000000000009001');
insert into config (configid,discovery_groupid) values (1,5);
insert into config_autoreg_tls (autoreg_tlsid) values (1);

-- An active and a passive proxy, both ours; each monitors one host, whose agent is a real one.
insert into hosts (hostid,host,status,name,tls_connect,tls_accept) values
 (20001,'px-active',5,'',1,1),
 (20002,'px-passive',6,'',1,1);
insert into hosts (hostid,host,status,name,proxy_hostid) values
 (20010,'mon-a',0,'Monitored A',20001),
 (20020,'mon-p',0,'Monitored P',20002);
-- Two agents of ours: one asks the server, one is asked by it.
insert into hosts (hostid,host,status,name) values
 (20030,'lab-active',0,'Lab active'),
 (20040,'lab-passive',0,'Lab passive');
insert into hosts_groups (hostgroupid,hostid,groupid) values
 (90001,20010,9001),(90002,20020,9001),(90003,20030,9001),(90004,20040,9001);
insert into interface (interfaceid,hostid,main,type,useip,ip,dns,port) values
 (20002,20002,1,0,1,'127.0.0.1','','@PASSIVE_PROXY@'),
 (20010,20010,1,1,1,'127.0.0.1','','@REAL_AGENT@'),
 (20020,20020,1,1,1,'127.0.0.1','','@REAL_AGENT@'),
 (20040,20040,1,1,1,'127.0.0.1','','@PASSIVE_AGENT@');

-- type 0 polled, 2 trapper, 7 active; value_type 0 float, 1 string, 3 unsigned.
insert into items (itemid,type,hostid,name,key_,delay,value_type,interfaceid,params,description,posts,headers) values
 (930001,0,20010,'ping','agent.ping','1s',3,20010,'','','',''),
 (930002,0,20010,'bad','no.such.key[1]','1s',3,20010,'','','',''),
 (930003,0,20010,'version','agent.version','1s',1,20010,'','','',''),
 (930004,2,20010,'trap','trap.num','0',0,null,'','','',''),
 (931001,0,20020,'ping','agent.ping','1s',3,20020,'','','',''),
 (932001,7,20030,'ping','agent.ping','1s',3,null,'','','',''),
 (932002,7,20030,'load','system.cpu.load[all,avg1]','1s',0,null,'','','',''),
 (932003,7,20030,'bad','no.such.key[1]','1s',3,null,'','','',''),
 (933001,0,20040,'ping','agent.ping','1s',3,20040,'','','',''),
 (933002,0,20040,'name','agent.hostname','1s',1,20040,'','','',''),
 (933003,0,20040,'bad','no.such.key[1]','1s',3,20040,'','','','');
insert into item_rtdata (itemid,lastlogsize,state,mtime,error) select itemid,0,0,0,'' from items;
