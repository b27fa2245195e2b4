use super::*;

fn parse(words: &str) -> Options {
    Options::parse(words.split(',').filter(|w| !w.is_empty()))
}

#[test]
fn the_table_is_sorted_so_that_it_can_be_searched() {
    assert!(TABLE.is_sorted_by_key(|(word, _)| *word));
}

#[test]
fn every_option_of_the_specification_is_known() {
    let spec = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev \
        nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime \
        rbind rdev rdiratime relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime \
        rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw \
        shared silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap";
    for word in spec.split_whitespace() {
        assert!(meaning(word).is_some(), "{word}");
    }
}

#[test]
fn unknown_options_go_to_the_file_system() {
    assert_eq!(parse("nosuid,size=64k,mode=755,norecurse").data, ["size=64k", "mode=755", "norecurse"]);
}

#[test]
fn the_later_of_two_options_holds() {
    assert!(!parse("ro,rw").read_only());
    assert!(parse("rw,ro").read_only());
    assert_eq!(parse("sync,async").super_flags, Vec::<&str>::new());
    assert_eq!(parse("bind,rbind").bind, Some(true));
}

#[test]
fn strictatime_wins_over_noatime_and_relatime_is_the_default() {
    assert_eq!(parse("").new_mount_attr(), Attr::MOUNT_ATTR_RELATIME);
    assert_eq!(parse("noatime").new_mount_attr(), Attr::MOUNT_ATTR_NOATIME);
    assert_eq!(parse("strictatime,noatime").new_mount_attr(), Attr::MOUNT_ATTR_STRICTATIME);
    assert_eq!(parse("noatime,atime").new_mount_attr(), Attr::MOUNT_ATTR_RELATIME);
}

#[test]
fn a_bind_mount_without_options_keeps_its_source_and_with_options_gets_exactly_those() {
    assert!(!parse("rbind,rprivate").changes_bind());
    let ro = parse("rbind,ro");
    assert!(ro.changes_bind());
    let (set, clear) = ro.bind_attr();
    assert_eq!(set, Attr::MOUNT_ATTR_RDONLY);
    assert_eq!(clear, PLAIN - Attr::MOUNT_ATTR_RDONLY);
    assert!(parse("rbind,suid").changes_bind());
}

#[test]
fn locked_attributes_of_a_source_stay_unless_cleared_by_name() {
    assert_eq!(parse("bind,ro").locked_bind_attr(), (Attr::MOUNT_ATTR_RDONLY, Attr::empty()));
    assert_eq!(parse("bind,ro,suid").locked_bind_attr().1, Attr::MOUNT_ATTR_NOSUID);
}

#[test]
fn recursive_access_time_options_replace_the_whole_policy() {
    let options = parse("rbind,rnoatime,rro");
    assert_eq!(options.rec_set, Attr::MOUNT_ATTR_NOATIME | Attr::MOUNT_ATTR_RDONLY);
    assert_eq!(options.rec_clear, Attr::MOUNT_ATTR__ATIME);
    assert_eq!(parse("rrelatime").rec_clear, Attr::MOUNT_ATTR__ATIME);
}

#[test]
fn data_is_split_at_commas_but_not_within_quotes() {
    assert_eq!(
        split_data("size=1k,context=\"u:r:t:s0:c1,c2\",x"),
        ["size=1k", "context=u:r:t:s0:c1,c2", "x"]
    );
}

#[test]
fn propagation_words_are_known_by_name() {
    assert_eq!(propagation("rslave"), Some((Propagation::DOWNSTREAM, true)));
    assert_eq!(propagation("private"), Some((Propagation::PRIVATE, false)));
    assert_eq!(propagation("ro"), None);
}
