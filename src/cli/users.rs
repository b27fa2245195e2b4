//! Names of users. Not by the C library: in a static program its name services load code at run time.

use std::collections::HashMap;

/// Names of users by id; `/etc/passwd` is read once.
#[derive(Debug, Default)]
pub struct Users {
    passwd: Option<String>,
    names: HashMap<u32, String>,
}

impl Users {
    /// The name of a user in `/etc/passwd`, or `#UID`.
    pub fn name(&mut self, uid: u32) -> String {
        if let Some(name) = self.names.get(&uid) {
            return name.clone();
        }
        let passwd =
            self.passwd.get_or_insert_with(|| std::fs::read_to_string("/etc/passwd").unwrap_or_default());
        let name = name_in(passwd, uid).unwrap_or_else(|| format!("#{uid}"));
        self.names.insert(uid, name.clone());
        name
    }
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_user_is_found_by_id() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:1000:1000::/:\n";
        assert_eq!(super::name_in(passwd, 1000).as_deref(), Some("me"));
        assert_eq!(super::name_in(passwd, 7), None);
    }
}
