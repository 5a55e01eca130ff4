// Package kernels gets kernels ready to boot: it turns a SPEC (a Debian version, .deb files, a folder, a
// build tree, the running kernel) into an entry of a content-addressed cache that holds a vmlinuz, its
// configuration and the few modules a guest needs, and it answers what that kernel is and can do.
//
// It owns the SPEC grammar, the reading of packages and modules, the private use of apt-get and the files
// below the cache's folder. It does not boot anything, does not build initramfs images (package images) and
// does not decide which scenario fits a kernel (harness/plan). It does not compile kernels: package build below
// it does, and has what came of it imported.
package kernels
