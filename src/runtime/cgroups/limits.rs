//! Setting the limits of a container: from its resources to the files of its cgroups.

use super::host::Version;
use super::place::Place;
use super::plan::{OnFailure, Setting, plan_v1, plan_v2};
use super::{Cgroup, Driver, devices, fs, not_permitted};
use crate::error::Result;
use oci_spec::runtime::LinuxResources;
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

impl Cgroup {
    /// Sets all limits of a new container.
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
        self.apply_limits(resources)?;
        self.apply_devices(&rules, true)
    }

    /// Changes limits; device rules only if there are any.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.check_usage(resources)?;
        self.apply_limits(resources)?;
        match resources.devices().as_deref() {
            Some(devices @ [_, ..]) => self.apply_devices(&devices::rules(devices)?, false),
            _ => Ok(()),
        }
    }

    /// Refuses a memory limit below the present usage, where the configuration asks for that check: v2 would kill
    /// processes until the limit holds.
    fn check_usage(&self, resources: &LinuxResources) -> Result<()> {
        let Some(memory) = resources.memory().filter(|memory| memory.check_before_update() == Some(true))
        else {
            return Ok(());
        };
        let (Some(limit @ 1..), Some(place)) = (memory.limit(), self.v2()) else { return Ok(()) };
        let usage =
            fs::read(&place.directory.join("memory.current")).ok().and_then(|text| text.parse::<i64>().ok());
        match usage {
            Some(usage) if usage > limit => {
                crate::bail!(System, "rejecting memory limit {limit}: {usage} bytes are in use")
            }
            _ => Ok(()),
        }
    }

    fn apply_limits(&self, resources: &LinuxResources) -> Result<()> {
        if let Some(unit) = &self.unit {
            unit.apply(resources, self.version())?;
        }
        let v1 = self.version() == Version::V1;
        let settings = if v1 { plan_v1(resources)? } else { plan_v2(resources)? };
        if settings.is_empty() {
            return Ok(());
        }
        if !self.is_tracked() {
            if self.driver == Driver::Disabled {
                tracing::warn!("cgroups are disabled: the limits of the configuration are not set");
                return Ok(());
            }
            crate::bail!(
                CreateFailed,
                "rootless needs no limits + no cgrouppath when no permission is granted for cgroups"
            );
        }
        let (hugetlb, rest): (Vec<_>, Vec<_>) =
            settings.into_iter().partition(|setting| v1 && setting.controller == "hugetlb");
        fs::apply(&rest, |setting| self.directory_of(setting))?;
        if hugetlb.is_empty() || self.places.iter().any(|place| place.has("hugetlb")) {
            return fs::apply(&hugetlb, |setting| self.directory_of(setting));
        }
        // A hybrid host may have this controller in its v2 hierarchy.
        let mut only = LinuxResources::default();
        only.set_hugepage_limits(resources.hugepage_limits().clone());
        fs::apply(&plan_v2(&only)?, |_| self.v2().map(|place| place.directory.clone()))
    }

    fn directory_of(&self, setting: &Setting) -> Option<PathBuf> {
        let v1 = self.places.iter().find(|place| place.has(setting.controller));
        v1.or_else(|| self.v2().filter(|_| self.places.len() == 1)).map(|place| place.directory.clone())
    }

    /// The place whose files take device rules one by one, beginning with a denial of all; v2 takes a program, at once.
    fn device_files(&self) -> Option<&Place> {
        self.places.iter().find(|place| place.has("devices"))
    }

    /// Whether a process of the cgroup may be denied devices, while the limits are set, that it may use and make afterwards.
    pub fn denies_meanwhile(&self) -> bool {
        self.device_files().is_some()
    }

    fn apply_devices(&self, rules: &[devices::Rule], fresh: bool) -> Result<()> {
        let applied = if let Some(place) = self.device_files() {
            rules.iter().try_for_each(|rule| {
                let file = if rule.allow { "devices.allow" } else { "devices.deny" };
                fs::write(&place.directory.join(file), &rule.to_string())
            })
        } else if let [place] = self.places.as_slice()
            && place.version == Version::V2
        {
            let directory = fs::open_dir(&place.directory)?;
            devices::attach(directory.as_fd(), rules, fresh)
        } else {
            Ok(())
        };
        match applied {
            // Without privileges no rules can be set; nor can devices be made or opened that the user may not.
            Err(e) if self.rootless && not_permitted(&e) => Ok(()),
            applied => applied,
        }
    }
}

/// Files of a cgroup v2 and what is written to them for these limits; what a kernel may lack without harm is left out.
pub fn v2_files(resources: &LinuxResources) -> Result<BTreeMap<String, String>> {
    let settings = plan_v2(resources)?.into_iter();
    let needed = settings.filter(|setting| setting.on_failure != OnFailure::IgnoreMissing);
    Ok(needed.map(|setting| (setting.file, setting.value)).collect())
}

/// Turns limits and device rules into what would be written, on v1 and on v2: for tests of what cannot be turned.
#[cfg(feature = "testing")]
pub fn plan_all(resources: &LinuxResources) -> Result<()> {
    devices::rules(resources.devices().as_deref().unwrap_or_default())?;
    plan_v1(resources)?;
    plan_v2(resources).map(drop)
}
