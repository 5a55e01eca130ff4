package kernels

import gocmp "github.com/google/go-cmp/cmp"

var (
	cmpSpec    = gocmp.AllowUnexported(spec{})
	cmpInfo    = gocmp.AllowUnexported(moduleInfo{})
	cmpSources = gocmp.AllowUnexported(aptSource{})
)
