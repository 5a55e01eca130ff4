package lab

import "github.com/nestbed/nestbed/guestagent/iommufd"

// IOMMUFD is an open /dev/iommu.
type IOMMUFD struct {
	t       *T
	context *iommufd.Context
}

// OpenIOMMUFD opens /dev/iommu.
func (t *T) OpenIOMMUFD() *IOMMUFD {
	context, err := iommufd.Open()
	t.must(err)
	t.atEnd("close the IOMMUFD", context.Close)
	return &IOMMUFD{t, context}
}

// FD is the descriptor.
func (i *IOMMUFD) FD() int { return i.context.FD() }

// Close closes the descriptor. A device that is bound to it keeps the context and its IOAS.
func (i *IOMMUFD) Close() { i.t.must(i.context.Close()) }

// IOAS is an I/O address space of an IOMMUFD, and goes with it.
type IOAS struct {
	t    *T
	ioas *iommufd.IOAS
}

// NewIOAS makes an IOAS with nothing in it.
func (i *IOMMUFD) NewIOAS() *IOAS {
	s, err := i.context.AllocIOAS()
	i.t.must(err)
	return &IOAS{i.t, s}
}

// Map lets devices that are attached reach the page at iova.
func (s *IOAS) Map(page *Page, iova uint32) { s.t.must(s.ioas.Map(page.mem, uint64(iova))) }

// Unmap takes back Map.
func (s *IOAS) Unmap(iova uint32) {
	n, err := s.ioas.Unmap(uint64(iova), PageSize)
	s.t.must(err)
	if n != PageSize {
		s.t.WantInt(int(n), PageSize, "IOAS_UNMAP says how much it unmapped")
	}
}

// TryDestroy removes the IOAS, which the kernel refuses while a device is attached.
func (s *IOAS) TryDestroy() error { return s.ioas.Destroy() }
