//! Linux containers: namespaces, cgroups, and a launch path close to what the kernel itself needs.
