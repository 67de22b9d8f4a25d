//! What the customer has to let in on the way to a database, in words to be read beside the statements of the set-up.

use super::addresses::Server;
use crate::model::{Bastion, Connection, TlsMode};

/// Lines of SQL that do nothing: who has to be let in where.
pub fn admission(connection: &Connection, addresses: &[String]) -> String {
    let servers = Server::parse_all(&connection.host, connection.port).unwrap_or_default();
    if servers.iter().all(|server| matches!(server, Server::Socket { .. })) {
        return String::new();
    }
    let lines = match &connection.bastion {
        None => at_database(connection, addresses),
        Some(bastion) => at_bastion(bastion, &servers, addresses),
    };
    // What a name holds must not end the comment.
    let lines = lines.iter().map(|line| format!("-- {}\n", line.replace(char::is_control, " ")));
    format!("\n{}", lines.collect::<String>())
}

fn at_database(connection: &Connection, addresses: &[String]) -> Vec<String> {
    let mut lines = from(addresses);
    lines.push("let them in at the firewall or security group, and in pg_hba.conf where you keep it yourself:".into());
    let is_plain = matches!(connection.tls.mode, TlsMode::Disable | TlsMode::Prefer);
    let kind = if is_plain { "host" } else { "hostssl" };
    let (database, user) = (in_hba(&connection.database), in_hba(&connection.username));
    let line = |address: &str| format!("  {kind} {database} {user} {address} scram-sha-256");
    lines.extend(networks(addresses).iter().map(|address| line(address)));
    if addresses.is_empty() {
        lines.push(line("ADDRESS/32"));
    }
    lines
}

fn at_bastion(bastion: &Bastion, servers: &[Server], addresses: &[String]) -> Vec<String> {
    let mut lines = from(addresses);
    lines.push(format!(
        "let them in at the bastion {}, port {}; the database sees the bastion's own address, not these",
        bastion.host, bastion.port
    ));
    if bastion.private_key.is_some() {
        let options = servers.iter().map(|server| format!(",permitopen=\"{server}\""));
        lines.push(format!(
            "in ~{}/.ssh/authorized_keys there, so that the key opens this way and no other:",
            bastion.username
        ));
        lines.push(format!("  restrict,port-forwarding{} PUBLIC_KEY", options.collect::<String>()));
    }
    lines
}

fn from(addresses: &[String]) -> Vec<String> {
    match addresses {
        [] => {
            vec!["Sequin connects from addresses that it was not told: whoever runs it sets SEQUIN_EGRESS_IPS".into()]
        }
        addresses => vec![format!("Sequin connects from {}", addresses.join(", "))],
    }
}

/// An address is a network of its own.
fn networks(addresses: &[String]) -> Vec<String> {
    let network = |address: &String| match (address.contains('/'), address.contains(':')) {
        (true, _) => address.clone(),
        (false, true) => format!("{address}/128"),
        (false, false) => format!("{address}/32"),
    };
    addresses.iter().map(network).collect()
}

/// A name as `pg_hba.conf` has it.
fn in_hba(name: &str) -> String {
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let is_word = ["all", "sameuser", "samerole", "samegroup", "replication"].contains(&name);
    if is_plain && !is_word { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Secret, Tls};

    fn connection(host: &str) -> Connection {
        Connection {
            host: host.into(),
            port: 5432,
            database: "app\ndrop database app;".into(),
            username: "all".into(),
            password: None,
            password_file: None,
            tls: Tls { mode: TlsMode::VerifyFull, ..Tls::default() },
            bastion: None,
        }
    }

    fn bastion() -> Bastion {
        Bastion {
            host: "bastion\n.example.com".into(),
            port: 22,
            username: "tunnel".into(),
            private_key: Some(Secret::new("hunter2")),
            passphrase: None,
            password: None,
            host_key: None,
            trust_on_first_use: false,
        }
    }

    #[test]
    fn whoever_has_to_let_us_in_reads_from_where_we_come_and_nothing_of_it_is_a_statement() {
        let told = admission(&connection("db"), &["203.0.113.7".into(), "2001:db8::/48".into()]);
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines[1], "-- Sequin connects from 203.0.113.7, 2001:db8::/48");
        assert_eq!(
            lines[3..],
            [
                r#"--   hostssl "app drop database app;" "all" 203.0.113.7/32 scram-sha-256"#,
                r#"--   hostssl "app drop database app;" "all" 2001:db8::/48 scram-sha-256"#,
            ]
        );
        let untold = admission(&connection("db"), &[]);
        assert!(untold.contains("SEQUIN_EGRESS_IPS") && untold.contains(" ADDRESS/32 "), "{untold}");
        assert_eq!(admission(&connection("/var/run/postgresql"), &["203.0.113.7".into()]), "");
    }

    #[test]
    fn the_key_at_a_bastion_opens_the_way_to_the_database_and_no_other() {
        let connection = Connection { bastion: Some(bastion()), ..connection("db-1,db-2:6432") };
        let told = admission(&connection, &["203.0.113.7".into()]);
        let key = r#"--   restrict,port-forwarding,permitopen="db-1:5432",permitopen="db-2:6432" PUBLIC_KEY"#;
        assert!(told.lines().any(|line| line == key), "{told}");
        assert!(told.lines().skip(1).all(|line| line.starts_with("-- ")) && !told.contains("hunter2"), "{told}");
    }
}
