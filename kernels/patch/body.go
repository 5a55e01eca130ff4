package patch

import (
	"encoding/base64"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"strings"
)

// decoded is the text of a message without its transfer encoding; of one in parts, all that is text. git am
// decodes it once more by itself: this is only to look for a diff and for trailers.
func decoded(m *mail.Message) ([]byte, error) {
	return part(textproto.MIMEHeader(m.Header), m.Body, 0)
}

// maxNesting is more than any mailing list's footer adds.
const maxNesting = 5

func part(h textproto.MIMEHeader, body io.Reader, depth int) ([]byte, error) {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err == nil && strings.HasPrefix(kind, "multipart/") && depth < maxNesting {
		var text []byte
		parts := multipart.NewReader(body, params["boundary"])
		for {
			p, err := parts.NextRawPart()
			if err == io.EOF {
				return text, nil
			} else if err != nil {
				return nil, err
			}
			more, err := part(p.Header, p, depth+1)
			if err != nil {
				return nil, err
			}
			text = append(append(text, more...), '\n')
		}
	}
	switch strings.ToLower(h.Get("Content-Transfer-Encoding")) {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	return io.ReadAll(body)
}
